"""The records that pass between splitting, question writing and compiling."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer

QuestionKind = Literal["written", "open", "cloze", "statement", "user"]
"""How a question was made: by a writer; an open wording about a phrase; a blank for a name or number; the text's end
asked for; by a person."""


class Question(BaseModel):
    """One question with its answer.

    `score` is the writer's mean log-probability per question token (natural logarithm), None where no trained
    writer wrote it. `trained`: whether the atom is trained on it, where a question file says so; None leaves it to
    `atomlora.wordings`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    answer: str
    kind: QuestionKind
    score: float | None = None
    trained: bool | None = None

    @model_serializer(mode="wrap")
    def _without_unset(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Stores without a question file keep the bytes that they have without this field."""
        values: dict[str, Any] = handler(self)
        if self.trained is None:
            values.pop("trained", None)
        return values


class AtomText(BaseModel):
    """What a writer sees of an atom: the document's title, its heading path, and the text (1-3 sentences)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    title: str
    text: str
    headings: tuple[str, ...] = ()


class QuestionWriter(Protocol):
    """Writes questions for atoms. `digest` changes whenever the same text could get other questions, but for what the
    base that is compiled for has to do with them where it takes part (`of_base`)."""

    name: str
    digest: str
    of_base: bool

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


class Written(NamedTuple):
    """The questions about text `number`; `final`: another run could not get better ones."""

    number: int
    questions: list[Question]
    final: bool


@runtime_checkable
class StreamingWriter(Protocol):
    """A writer that finishes text by text, in any order."""

    def stream(self, atoms: Sequence[AtomText], max_questions: int, proven: bool = False) -> Iterator[Written]:
        """What `write` gives, as soon as each text is done. `proven`: the writer has written about other texts before,
        so that some that it cannot write about do not make it useless."""
        ...
