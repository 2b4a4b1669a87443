"""Arguments and options that several commands share."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from atomlora.defaults import MAX_NEW_TOKENS, STEADY, TOP_K
from atomlora.errors import InputError, UsageError

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA

    _ParamType = click.ParamType[Path | str]
else:  # not generic in older versions of click
    _ParamType = click.ParamType

Command = TypeVar("Command", bound=Callable[..., Any])


def _device(context: click.Context, option: click.Parameter, value: str) -> str:
    """`value` if torch can compute there."""
    if value in ("auto", "cpu"):
        return value
    import torch

    try:
        torch.empty(1, device=value)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).strip().splitlines()[0]
        raise click.BadParameter(f"{value!r} cannot be used here ({reason}); try auto or cpu") from error
    return value


class StorePath(_ParamType):
    """A store's folder as a Path, or an fsspec address, of which a Path would swallow a slash, as it is."""

    name = "store"

    def __init__(self, addresses: bool) -> None:
        self.addresses = addresses

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path | str:
        if "://" not in str(value):
            return Path(value)
        if not self.addresses:
            self.fail(f"{value}: this needs a store in a folder; get it with: atomlora pull {value} FOLDER", param, ctx)
        return str(value)


class OutputPath(click.Path):
    """A file or folder to write, as a Path; an address, which a Path would take for folders of this machine, is
    refused with the `remedy`."""

    def __init__(self, remedy: str = "give a path", dir_okay: bool = True) -> None:
        super().__init__(path_type=Path, dir_okay=dir_okay)
        self.remedy = remedy

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if "://" in str(value):
            self.fail(f"{value}: an address cannot be written to here; {self.remedy}", param, ctx)
        return super().convert(value, param, ctx)


store_argument = click.argument("store", type=StorePath(addresses=True))
folder_argument = click.argument("store", type=StorePath(addresses=False))
at_option = click.option(
    "--at", "version", metavar="VERSION", help="A version: the start of its name, a tag, HEAD, or one of these~N."
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON on stdout.")
base_option = click.option("--base", help="Where the store's base lies, if elsewhere: folder or hub id.")
device_option = click.option(
    "--device", default="auto", show_default=True, callback=_device, help="auto, cpu, cuda, cuda:1…"
)
top_k_option = click.option(
    "--top-k", default=TOP_K, show_default=True, type=click.IntRange(min=1), help="Atoms that may take part."
)
hops_option = click.option(
    "--hops",
    default=1,
    show_default=True,
    type=click.IntRange(1, 4),
    help="Rounds of routing: 2 also finds what is said of the names that the first atoms bring in.",
)
new_tokens_option = click.option(
    "--max-new-tokens",
    default=MAX_NEW_TOKENS,
    show_default=True,
    type=click.IntRange(min=1),
    help="Most tokens of a statement.",
)
quantisation_option = click.option(
    "--base-quantisation",
    type=click.Choice(["none", "int8", "nf4"]),
    help="Keep the base's linear layers in 8 or 4 bits, the same as --base NAME+int8; needs atomlora[quantised].",
)
labels_option = click.option(
    "--label", "labels", multiple=True, metavar="NAME", help="Mount the behaviours of this label too. May be repeated."
)
on_conflict_option = click.option(
    "--on-conflict",
    type=click.Choice(["newest", "warn", "error"]),
    help="Where documents disagree: leave the older out, note it, or fail.  [default: warn, or as compiled]",
)
questions_option = click.option(
    "--questions",
    type=click.Path(path_type=Path),
    help='Questions: jsonl of {"question", "answer", "source"}, or what `atomlora questions` wrote.',
)


def writer_options(command: Command) -> Command:
    """--question-writer, how one behind an address is used, and how much is asked."""
    for option in (
        click.option(
            "--question-rounds",
            type=int,
            help="Ask about a sentence so often, always about something else: more keys for the router.  [default: 1]",
        ),
        click.option("--writer-timeout", type=float, help="Seconds to wait for an address's answer.  [default: 60]"),
        click.option("--writer-requests-per-minute", type=float, help="At most so many to an address."),
        click.option("--writer-concurrency", type=int, help="Requests to an address at a time.  [default: 4]"),
        click.option(
            "--question-writer",
            metavar="auto|none|base|shipped|URL#MODEL|DIR",
            help="Who writes questions. URL#MODEL is an OpenAI-compatible endpoint, such as "
            "http://localhost:8000/v1#qwen3; its key is read from $ATOMLORA_WRITER_API_KEY.  [default: auto]",
        ),
    ):
        command = option(command)
    return command


interference_option = click.option(
    "--interference",
    type=click.Choice(["downweight", "drop", "warn", "alone", "off"]),
    help="What is done about routed atoms that are known to disturb each other.  [default: downweight]",
)
off_topic_option = click.option(
    "--off-topic",
    default="base",
    show_default=True,
    type=click.Choice(["base", "refuse"]),
    help="Who answers what the store does not cover.",
)
second_look_option = click.option(
    "--second-look/--no-second-look",
    default=True,
    show_default=True,
    help="Have the embedded base read the likeliest texts where scores leave open whether the store covers a question.",
)
steady_option = click.option(
    "--steady",
    default=STEADY,
    show_default=True,
    type=click.FloatRange(0, 1, max_open=True),
    help="Where a token of a statement is less likely, ask its atom again in a trained wording; 0: never.",
)


reader_option = click.option(
    "--reader", default="auto", show_default=True, metavar="auto|none|DIR", help="Who answers shortly: see adapt."
)
style_option = click.option(
    "--style",
    type=click.Choice(["auto", "short", "statement"]),
    help="What the base states, the reader's short answer, or auto: short where the reader is sure.  "
    "[default: statement, or auto with --reader DIR]",
)


def reader_options(command: Command) -> Command:
    """--reader and --style."""
    return reader_option(style_option(command))


def model_options(command: Command) -> Command:
    """--base, --device, --top-k and --max-new-tokens."""
    for option in (new_tokens_option, top_k_option, device_option, base_option):
        command = option(command)
    return command


def open_model(store: Path | str, base: str | None, device: str, *, hops: int = 1, **settings: Any) -> AtomLoRA:
    """The store on its base; the base is loaded when first needed, or at once where it was named."""
    from atomlora.model import AtomLoRA

    if hops > 1:
        from atomlora.router import RouterSettings

        settings["router"] = RouterSettings(hops=hops)
    return AtomLoRA.open(store, base, device, **settings)


def check_place(option: str, path: Path | None) -> None:
    """InputError when no file can be written at `path`, which is known before anything is computed."""
    if path is None:
        return
    folder = path.absolute().parent
    if not folder.is_dir():
        raise InputError(f"{option} {path}: its folder is not there; make it, or name another")
    if path.is_dir() or not os.access(path if path.exists() else folder, os.W_OK):
        raise InputError(f"{option} {path}: cannot be written; name a file that you may write to")


def read_question(question: str) -> str:
    """The question as given, or standard input where it is `-`; UsageError when there is none."""
    from atomlora.answers import is_text

    text = read_stdin() if question == "-" else question
    if not text.strip():
        raise UsageError("the question is empty; give a question, or - to read it from standard input")
    if not is_text(text):
        raise UsageError("the question is not UTF-8; check the terminal's encoding, or give - and UTF-8 on stdin")
    return text.strip()


def read_stdin() -> str:
    """Standard input as UTF-8 text."""
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(f"standard input is not UTF-8 (byte {error.start})") from error


def print_json(value: Any) -> None:
    """One line of JSON on stdout."""
    click.echo(json.dumps(value, ensure_ascii=False))
