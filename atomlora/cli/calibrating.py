"""`recalibrate`: a store's gates and threshold, fitted anew."""

from __future__ import annotations

from pathlib import Path

import click

from atomlora.cli import options
from atomlora.errors import InputError


@click.command()
@options.folder_argument
@click.option(
    "--alpha", default=0.05, show_default=True, help="Most of the answerable questions to give up, between 0 and 1."
)
@click.option("--foreign", type=click.Path(path_type=Path), help='jsonl of {"question"} not to be answered.')
@options.json_option
def recalibrate(store: Path, alpha: float, foreign: Path | None, as_json: bool) -> None:
    """Fit a store's gates and its threshold of silence anew, as a version of its own.

    Gates are learnt from the store's own questions. What general questions score, and those of --foreign, says how
    sure the router has to be.
    """
    from atomlora.golden import read_questions
    from atomlora.recalibrate import recalibrate as fit

    asked = [] if foreign is None else list(read_questions(foreign))
    if foreign is not None and not asked:
        raise InputError(f'--foreign {foreign}: holds no question; write {{"question": "…"}}, one a line')
    done = fit(store, alpha, asked)
    if as_json:
        options.print_json(done.model_dump(mode="json"))
        return
    before = "" if done.threshold_before is None else f" (before: {done.threshold_before:.3f})"
    click.echo(f"{store}: silent below confidence {done.threshold:.3f}{before}; version {done.version[:12]}")
    shares = {name: share for name, share in done.stats.items() if name.endswith("abstained")}
    click.echo("  ".join(f"{name} {share:.3f}" for name, share in shares.items()))
