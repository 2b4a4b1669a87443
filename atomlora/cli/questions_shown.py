"""The questions of a corpus on stdout or in a file, and what there is to say about them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import click

from atomlora.cli import progress, render
from atomlora.cli.options import check_place, print_json
from atomlora.errors import UsageError

if TYPE_CHECKING:
    from atomlora.compiler.questionnaire import QuestionsReport
    from atomlora.questions.files import QuestionLine
    from atomlora.settings import CompileSettings


def check_output(output: Path | None, force: bool, as_json: bool) -> None:
    """UsageError, before anything is computed, for a file that would be lost and for two things on one stdout."""
    if output is None and (as_json or force):
        raise UsageError(f"{'--json' if as_json else '--force'} needs -o FILE: without it the questions are on stdout")
    if output is not None and output.exists() and not force:
        raise UsageError(
            f"-o {output}: exists, and may have been edited; give another name (with --questions {output} it takes "
            "the edited lines over), or --force"
        )
    check_place("-o", output)


def questions_shown(
    sources: Sequence[Path], settings: CompileSettings, base: str, questions: Path | None, device: str
) -> tuple[list[QuestionLine], QuestionsReport]:
    """`corpus_questions` with progress on stderr."""
    from atomlora.compiler.questionnaire import corpus_questions

    try:
        with progress.progress_listener() as listen:
            return corpus_questions(
                sources, settings, base=base, questions=questions, device=device, on_progress=listen
            )
    except KeyboardInterrupt:
        raise KeyboardInterrupt("Stopped; what was written is kept in the cache; the same command resumes") from None


def show_questions(
    lines: Sequence[QuestionLine], report: QuestionsReport, output: Path | None, as_json: bool, stdout: TextIO
) -> None:
    """The lines to `output` or stdout, the summary to stdout or stderr."""
    from atomlora.questions.files import dump_question_lines, write_question_file

    if output is None:
        dump_question_lines(lines, stdout)
    else:
        write_question_file(lines, output)
    progress.show_list([f"Skipped {one.source}: {one.reason}" for one in report.skipped], "files skipped")
    progress.show_list([f"Warning: {warning}" for warning in report.warnings], "warnings")
    if as_json:
        print_json(report.model_copy(update={"file": str(output)}).model_dump(mode="json"))
        return
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(report.by_kind.items()))
    click.echo(
        render.one_line(
            f"{output or 'stdout'}: {report.questions} questions ({kinds}) about {report.sentences} sentences, "
            f"{report.trained} of them trained, in {progress.duration(report.seconds)}"
        ),
        err=output is None,
    )
