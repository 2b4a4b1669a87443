"""Answers one after the other: of a file of questions, or of one question token by token."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atomlora.cli import options, render
from atomlora.errors import InputError

if TYPE_CHECKING:
    from atomlora.answers import Answer
    from atomlora.model import AtomLoRA

CHUNK = 64  # questions that are sorted into batches together; answers appear chunk by chunk


def ask_file(model: AtomLoRA, path: Path, how: dict[str, Any], as_json: bool) -> None:
    """Answer every line of a jsonl file (`-`: standard input); a bad line is reported before any is asked."""
    from atomlora.golden import read_questions

    named = Path("standard input") if str(path) == "-" else path
    questions = list(read_questions(named, options.read_stdin().encode() if str(path) == "-" else None))
    if not questions:
        raise InputError(f'--batch {named}: holds no question; write {{"question": "…"}}, one a line')
    for start in range(0, len(questions), CHUNK):
        for answer in model.ask_batch(questions[start : start + CHUNK], **how):
            render.answer(answer, as_json, with_question=True)


def stream_answer(model: AtomLoRA, question: str, how: dict[str, Any]) -> Answer:
    """Write the answer's pieces to stdout as they come; returns the whole answer."""
    pieces = model.stream(question, **how)
    while True:
        try:
            click.echo(render.printable(next(pieces)), nl=False)
        except StopIteration as end:
            click.echo()
            answer: Answer = end.value
            return answer
