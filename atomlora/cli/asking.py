"""`ask` and `route`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atomlora.cli import filters, options, render
from atomlora.cli.batches import ask_file, stream_answer
from atomlora.errors import UsageError

OPENING = (
    "base",
    "device",
    "reader",
    "on_conflict",
    "interference",
    "off_topic",
    "steady",
    "version",
    "hops",
    "second_look",
)


@click.command()
@options.store_argument
@click.argument("question", required=False)
@click.option(
    "--mode",
    default="atoms",
    show_default=True,
    type=click.Choice(["atoms", "text", "both", "auto", "none"]),
    help="What answers: mounted atoms, the base with their texts in the prompt, both (atoms, and the text where one "
    "loses its thread), what the route suggests, or the bare base.",
)
@options.reader_options
@options.model_options
@click.option("--batch", type=click.Path(path_type=Path, allow_dash=True), help='jsonl of {"question": …} lines.')
@click.option("--stream", is_flag=True, help="Show the answer while it is decoded.")
@options.labels_option
@options.on_conflict_option
@options.interference_option
@options.off_topic_option
@options.second_look_option
@options.steady_option
@options.hops_option
@filters.filter_options
@options.at_option
@options.json_option
def ask(store: Path | str, question: str | None, batch: Path | None, stream: bool, as_json: bool, **how: Any) -> None:
    """Answer a question from a store.

    QUESTION may be - to read it from standard input. The answer is followed by the sources that took part.
    """
    check_ask(question, batch, stream, as_json)
    asked = None if question is None else options.read_question(question)
    where = filters.take_filter(how)
    opening = {name: how.pop(name) for name in OPENING}
    with options.open_model(store, **opening) as model:
        filters.note_if_nothing_passes(model, where)
        how["where"] = where
        if batch is not None:
            ask_file(model, batch, how, as_json)
        elif stream:
            render.sources(stream_answer(model, asked or "", how))
        else:
            render.answer(model.ask(asked or "", **how), as_json)


@click.command()
@options.store_argument
@click.argument("question")
@options.top_k_option
@options.hops_option
@options.second_look_option
@filters.filter_options
@options.at_option
@options.json_option
def route(store: Path | str, question: str, top_k: int, as_json: bool, **chosen: Any) -> None:
    """Show which atoms matter to a question.

    QUESTION may be - to read it from standard input. Needs no base model, but for a second look.
    """
    from atomlora.asking import answer_atom

    asked, where = options.read_question(question), filters.take_filter(chosen)
    opening = {name: chosen[name] for name in ("version", "hops", "second_look")}
    with options.open_model(store, None, "auto", **opening) as model:
        filters.note_if_nothing_passes(model, where)
        routed = model.route(asked, top_k, where)
        atoms = [answer_atom(atom, model.atoms, where) for atom in routed.atoms]
    render.route(routed, atoms, as_json)


def check_ask(question: str | None, batch: Path | None, stream: bool, as_json: bool) -> None:
    """UsageError for what cannot be combined."""
    if (question is None) == (batch is None):
        raise UsageError("give either a QUESTION or --batch FILE")
    if stream and (batch is not None or as_json):
        raise UsageError(f"--stream cannot be combined with {'--batch' if batch is not None else '--json'}")
