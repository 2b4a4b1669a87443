"""The command line, `atomlora`. Data goes to stdout; progress, notes and errors go to stderr.

Only click is imported until a command runs. Exit codes: 0 done, 1 failure, 2 usage, 3 corrupt store, 130
interrupted.
"""

import click

from atomlora.cli.adapting import adapt
from atomlora.cli.asking import ask, route
from atomlora.cli.calibrating import recalibrate
from atomlora.cli.checking import check
from atomlora.cli.compiling import compile_command
from atomlora.cli.evaluating import eval_command
from atomlora.cli.group import Commands
from atomlora.cli.inspecting import gc, show, verify
from atomlora.cli.questioning import questions
from atomlora.cli.remotes import pull, push
from atomlora.cli.samples import sample
from atomlora.cli.status import status
from atomlora.cli.versions import checkout, diff, log, tag


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atomlora")
def main() -> None:
    """Documents become knowledge atoms, atoms become micro-LoRAs, a router stacks the right ones."""


for command in (
    sample, questions, compile_command, ask, route, eval_command, check, adapt, recalibrate, status, show, log, diff,
    checkout, tag, verify, gc, push, pull,
):  # fmt: skip
    main.add_command(command)
