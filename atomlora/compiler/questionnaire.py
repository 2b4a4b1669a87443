"""`atomlora questions`: what a compile would train, as lines for a person to read and edit."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from pydantic import Field

from atomlora.atom import Record
from atomlora.bases import EMBEDDED_BASE, load_base
from atomlora.compiler.asking import ask, read_passages
from atomlora.compiler.drafts import Draft, drafts_from
from atomlora.compiler.given import given_questions
from atomlora.compiler.progress import Listener, Teller
from atomlora.corpora import SkippedFile
from atomlora.questions.cache import cached
from atomlora.questions.files import QuestionLine
from atomlora.questions.registry import needs_base, settings_writer
from atomlora.questions.types import QuestionKind
from atomlora.settings import CompileSettings
from atomlora.wordings import explicit_questions


class QuestionsReport(Record):
    """How many questions there are for how many sentences, `trained` of them on what they ask and the others keys of
    the router; `by_kind` counts them by how they were made."""

    file: str | None
    sentences: int
    questions: int
    trained: int
    by_kind: dict[QuestionKind, int] = Field(default_factory=dict)
    seconds: float
    skipped: tuple[SkippedFile, ...] = ()
    warnings: tuple[str, ...] = ()


def corpus_questions(
    sources: Sequence[Path | str],
    settings: CompileSettings | None = None,
    *,
    base: str = EMBEDDED_BASE,
    questions: Path | None = None,
    device: str = "auto",
    on_progress: Listener | None = None,
) -> tuple[list[QuestionLine], QuestionsReport]:
    """The questions that `compile_corpus` with the same arguments would use, sentence by sentence. Nothing is trained;
    what a writer has written is kept in the user's cache, so that the same call resumes after Ctrl-C. Raises
    InputError, UsageError or BaseModelError."""
    settings, began, teller = settings or CompileSettings(), time.perf_counter(), Teller(on_progress)
    passages, skipped = read_passages(sources, teller)
    given = given_questions(drafts_from(passages), questions)
    if needs_base(settings.question_writer):
        loaded = load_base(base, device)
        writer = cached(settings_writer(settings, loaded.model, loaded.tokenizer), loaded.fingerprint)
    else:
        writer = cached(settings_writer(settings), "")
    lines = list(question_lines(ask(given, {}, writer, settings.max_questions, teller)))
    teller.close()
    report = QuestionsReport(
        file=None,
        sentences=len(given.drafts),
        questions=len(lines),
        trained=sum(bool(line.trained) for line in lines),
        by_kind=Counter(line.kind for line in lines),
        seconds=time.perf_counter() - began,
        skipped=tuple(skipped),
        warnings=given.notes,
    )
    return lines, report


def question_lines(drafts: Sequence[Draft]) -> Iterator[QuestionLine]:
    """A line for each question of each draft; a sentence that stands in several places is listed at its first."""
    for draft in drafts:
        place = draft.provenances[0]
        for question in explicit_questions(draft):
            yield QuestionLine(
                question=question.text,
                answer=question.answer,
                source=place.source,
                kind=question.kind,
                trained=question.trained,
                start=place.start,
                end=place.end,
                text=draft.text,
                score=question.score,
                source_sha256=place.source_sha256,
            )
