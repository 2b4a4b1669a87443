"""`questions`: what a compile would ask, for a person to read and edit."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from atomlora.bases import EMBEDDED_BASE
from atomlora.cli import options
from atomlora.quantised import quantised_name


@click.command()
@click.argument("src", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--output", type=options.OutputPath(dir_okay=False), help="File to write.  [default: stdout]")
@click.option("--force", is_flag=True, help="Overwrite FILE, and with it whatever was edited there.")
@click.option("--base", default=EMBEDDED_BASE, show_default=True, help="Base model: name, folder or hub id.")
@options.quantisation_option
@options.questions_option
@options.writer_options
@options.device_option
@options.json_option
def questions(
    src: tuple[Path, ...],
    output: Path | None,
    force: bool,
    base: str,
    base_quantisation: str | None,
    questions: Path | None,
    device: str,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Write the questions that compile would use, as jsonl, to read, edit and give to compile --questions.

    One question a line: its answer, its sentence (text, source, start, end), how it was made (kind: written, open,
    cloze, statement, user), and whether the sentence is trained on it (the others help the router to find it). To
    every question but a user's the atom says its whole sentence.

    Edit question, answer, kind and trained; add and delete lines. Compile trains a sentence that the file has lines for
    on those alone, and leaves a sentence out whose lines are all gone, as long as its document has not changed.
    Sentences of documents of which the file has no line at all get questions as ever (to leave such a one out, keep a
    line of it with "trained": false). An unedited file makes the atoms that no file makes. An answer must stand in its
    sentence, but that of kind user, which is said as it is.

    An interrupted run is resumed by the same command.
    """
    from atomlora.cli.questions_shown import check_output, questions_shown, show_questions
    from atomlora.cli.settings import question_settings

    check_output(output, force, as_json)
    named = quantised_name(base, base_quantisation)
    lines, report = questions_shown(src, question_settings(**chosen), named, questions, device)
    show_questions(lines, report, output, as_json, sys.stdout)
