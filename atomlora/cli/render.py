"""Answers, routes and tables as text or JSON.

Texts come from documents and models, so control characters (which a terminal would obey) are left out.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from atomlora.cli.options import print_json

if TYPE_CHECKING:
    from atomlora.answers import Answer, AnswerAtom
    from atomlora.router import Route

QUOTED = 100  # characters of an atom's text in a line of sources


def printable(text: str) -> str:
    """`text` without control characters but for line ends and tabs."""
    return "".join(character for character in text if character.isprintable() or character in "\n\t")


def one_line(text: str, width: int | None = None) -> str:
    """`text` on one line, cut to `width` characters where one is given."""
    return cut(printable(" ".join(text.split())), width)


def untouched(text: str) -> str:
    """`text` on one line with its own spaces: of a name, which another would not be, or a column."""
    return printable(text.replace("\n", " ").replace("\t", " "))


def cut(line: str, width: int | None) -> str:
    """The first `width` characters of `line`, the last of them an ellipsis where something is missing."""
    return line if width is None or len(line) <= width else line[: max(0, width - 1)] + "…"


def answer(given: Answer, as_json: bool, with_question: bool = False) -> None:
    """An answer and its sources."""
    if as_json:
        print_json(given.model_dump(mode="json"))
        return
    if with_question:
        click.echo(f"Q: {one_line(given.question)}")
    click.echo(printable(given.text))
    sources(given)
    if with_question:
        click.echo()


def sources(given: Answer) -> None:
    """The lines below an answer: what took part, what did not, and whether the router abstained or the reader found
    nothing."""
    if given.abstained:
        click.echo(abstained_note(given.confidence))
    if given.unanswered:
        click.echo(f"  unanswered: the reader sees no answer in what was found (probability {given.unanswerable:.2f})")
    if given.reader and given.statement != given.text:
        for line in given.statement.splitlines():
            click.echo(f'  stated: "{one_line(line)}"')
    for atom in given.atoms:
        click.echo(source_line(atom))
    for atom in given.behaviours:
        click.echo(f"  behaviour: {one_line(atom.source or atom.id[:12])}")
    for again in given.reworded:
        click.echo(f'  asked again: {again.id[:12]} as "{one_line(again.question)}"')
    for conflict in given.conflicts:
        click.echo(f"  conflict: {conflict.a[:12]} and {conflict.b[:12]}: {one_line(conflict.reason)}")
    for dropped in given.dropped:
        click.echo(f"  left out: {dropped.id[:12]}: {one_line(dropped.reason)}")


def route(routed: Route, atoms: Sequence[AnswerAtom], as_json: bool) -> None:
    """What a question is routed to."""
    if as_json:
        head = {"question": routed.question, "abstained": routed.abstained, "confidence": routed.confidence}
        print_json(head | {"atoms": [atom.model_dump(mode="json") for atom in atoms]})
        return
    if routed.abstained:
        click.echo(abstained_note(routed.confidence))
    for atom in atoms:
        click.echo(source_line(atom))


def abstained_note(confidence: float) -> str:
    """What is said where no atom took part because the store does not cover the question."""
    return f"  abstained: the store does not seem to cover this question (confidence {confidence:.2f})"


def source_line(atom: AnswerAtom) -> str:
    """`source:start-end  weight  "text"`."""
    place = "(no document)" if atom.source is None else f"{untouched(atom.source)}:{atom.start}-{atom.end}"
    return f'  {place}  {atom.weight:.2f}  "{one_line(atom.text, QUOTED)}"'


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Columns on stdout, numbers to the right; the last column is cut to the terminal's width where stdout is
    one."""
    cells = [[untouched(str(cell)) for cell in row] for row in (header, *rows)]
    right = [bool(rows) and all(isinstance(row[at], int | float) for row in rows) for at in range(len(header))]
    widths = [max(len(row[at]) for row in cells) for at in range(len(header))]
    limit = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    for row in cells:
        padded = [
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        click.echo(cut("  ".join(padded).rstrip(), limit))
