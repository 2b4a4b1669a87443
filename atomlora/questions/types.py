"""The records that pass between splitting, question writing and compiling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from pydantic import BaseModel, ConfigDict

QuestionKind = Literal["written", "cloze", "statement", "user"]


class Question(BaseModel):
    """One question with its answer.

    `score` is the writer's mean log-probability per question token (natural logarithm), None where no trained
    writer wrote it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    answer: str
    kind: QuestionKind
    score: float | None = None


class AtomText(BaseModel):
    """What a writer sees of an atom: the document's title, its heading path, and the text (1-3 sentences)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    text: str
    headings: tuple[str, ...] = ()


class QuestionWriter(Protocol):
    """Writes questions for atoms. `digest` changes whenever the same text could get other questions."""

    name: str
    digest: str

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """Up to `max_questions` questions for each atom, best first, in the order of `atoms`.

        `progress(done, total)` is called as atoms are finished.
        """
        ...

    def close(self) -> None:
        """Free what writing needed (a model's copy, say); the next `write` makes it anew."""
        ...
