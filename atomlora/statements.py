"""Statements: each turn of each question, decoded; one that loses its thread is asked again in a wording it knows.

A question that is worded unlike an atom's training may throw the atom off half way: "they burn 311 litres". Where a
token falls below one half (`atomlora.runtime.steadiness`), decoding stops, and the same atom, alone, is asked in that
of its training wordings which the router's embedder finds nearest to the question. The router chose the atom for the
question as it was asked; the answer says where it was reworded. In mode both, where the atom's text may be shown, that
stands for what was lost, and nothing is decoded again.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, NamedTuple

from atomlora.prompts import chat_prompt
from atomlora.wordings import training_wordings

if TYPE_CHECKING:
    from atomlora.atom import Atom
    from atomlora.composer import Selection
    from atomlora.model import AtomLoRA
    from atomlora.router import Embedder

BATCH_SIZE = 16


class Row(NamedTuple):
    """A statement to be made: what is asked, its prompt's token ids, and what is mounted. `alone`: what is mounted when
    it is asked again, its leader first; None where it is not watched. `text`: what stands for it where it is lost, in
    place of asking again."""

    question: str
    prompt: list[int]
    mounted: Selection
    alone: Selection | None = None
    text: str | None = None


class Statement(NamedTuple):
    """What was said, `time.perf_counter()` when it was, and the wording in which it was asked again, if it was."""

    text: str
    said_at: float
    reworded: str | None = None


def say(model: AtomLoRA, rows: Sequence[Row], max_new_tokens: int) -> list[Statement]:
    """The statement of each row, of up to `max_new_tokens` tokens, decoded greedily in batches of like length."""
    said = _decode(model, rows, max_new_tokens, [model.steady if row.alone else 0.0 for row in rows])
    statements = [
        Statement(row.text if was_lost and row.text is not None else text, said_at)
        for row, (text, said_at, was_lost) in zip(rows, said, strict=True)
    ]
    lost = [number for number, row in enumerate(rows) if said[number][2] and row.text is None]
    again = [reworded(model, rows[number]) for number in lost]
    for number, row, (text, said_at, _) in zip(
        lost, again, _decode(model, again, max_new_tokens, [0.0] * len(again)), strict=True
    ):
        statements[number] = Statement(text, said_at, row.question)
    return statements


def stream(model: AtomLoRA, row: Row, max_new_tokens: int) -> Generator[str, None, Statement]:
    """The statement of one row in pieces as they are decoded; the generator's return value is the `Statement`. Where it
    is asked again, or its text stands for it, what has been given out goes on as the new text where that begins alike,
    else that follows on a line of its own."""
    from atomlora.runtime.decoding import stream_steady

    pieces: list[str] = []
    least = model.steady if row.alone else 0.0
    with model.composer.mounted([row.mounted], [len(row.prompt) - 1]) as composition:
        decoding = stream_steady(model.base, row.prompt, composition, max_new_tokens, least)
        with closing(decoding):
            while True:
                try:
                    pieces.append(next(decoding))
                except StopIteration as end:
                    lost = bool(end.value)
                    break
                yield pieces[-1]
    given = "".join(pieces)
    if not lost:
        return Statement(given.strip(), time.perf_counter())
    if row.text is None:
        again = reworded(model, row)
        ((text, said_at, _),) = _decode(model, [again], max_new_tokens, [0.0])
        statement = Statement(text, said_at, again.question)
    else:
        statement = Statement(row.text, time.perf_counter())
    text = statement.text
    yield text[len(given) :] if text.startswith(given) else "\n" + text
    return statement


def reworded(model: AtomLoRA, row: Row) -> Row:
    """The row as its leader, alone, was trained to be asked."""
    assert row.alone is not None
    wording = nearest_wording(model.atoms[row.alone.atoms[0].id], row.question, model.router.embedder)
    return Row(wording, chat_prompt(model.base.tokenizer, wording), row.alone)


def nearest_wording(atom: Atom, question: str, embedder: Embedder) -> str:
    """Of the wordings that the atom was trained on, the nearest to `question` by the embedder's cosine."""
    wordings = list(dict.fromkeys(wording.question for wording in training_wordings(atom)))
    vectors = embedder.encode([question, *wordings])
    return wordings[int((vectors[1:] @ vectors[0]).argmax())]


def _decode(
    model: AtomLoRA, rows: Sequence[Row], max_new_tokens: int, least: Sequence[float]
) -> list[tuple[str, float, bool]]:
    """Per row its text, when it was there, and whether it was lost."""
    from atomlora.runtime.decoding import decode_steady, plan_batches

    found: list[tuple[str, float, bool]] = [("", 0.0, False)] * len(rows)
    atoms = [{atom.id for atom in row.mounted.atoms} for row in rows]
    for batch in plan_batches([len(row.prompt) for row in rows], atoms, BATCH_SIZE, model.composer.pool.capacity):
        prompts = [rows[number].prompt for number in batch]
        last = max(map(len, prompts)) - 1
        with model.composer.mounted([rows[number].mounted for number in batch], [last] * len(batch)) as composition:
            texts = decode_steady(model.base, prompts, composition, max_new_tokens, [least[n] for n in batch])
        said_at = time.perf_counter()
        for number, (text, lost) in zip(batch, texts, strict=True):
            found[number] = (text, said_at, lost)
    return found
