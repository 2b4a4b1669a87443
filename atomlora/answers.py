"""What `ask` gives back; `model_dump(mode="json")` is the command line's JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict

from atomlora.atom import Provenance
from atomlora.errors import UsageError

Mode = Literal["atoms", "text", "both", "auto", "none"]
MODES: tuple[Mode, ...] = ("atoms", "text", "both", "auto", "none")
Style = Literal["auto", "short", "statement"]
STYLES: tuple[Style, ...] = ("auto", "short", "statement")
OffTopic = Literal["base", "refuse"]
REFUSAL = "I do not know: nothing that was compiled covers this question."
UNANSWERED = "What was found does not answer this question."


class AnswerPart(BaseModel):
    """Frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AnswerAtom(AnswerPart):
    """An atom that took part: gate `weight` in [0, 1], the router's `score`, and where its `text` stands:
    characters `start` to `end` of the extracted text of `source` (None where it came from no document)."""

    id: str
    weight: float
    score: float
    source: str | None
    start: int | None
    end: int | None
    text: str

    @classmethod
    def at(cls, place: Provenance | None, **facts: Any) -> Self:
        """The atom as it stands at a place."""
        where = (None, None, None) if place is None else (place.source, place.start, place.end)
        return cls(**facts, **dict(zip(("source", "start", "end"), where, strict=True)))


class Dropped(AnswerPart):
    """A routed atom that did not take part, and why."""

    id: str
    reason: str


class Conflict(AnswerPart):
    """Two routed atoms that disturb or contradict each other, what shows it, and where they stand; `newer` is the id
    of the newer one, where they contradict each other and that is known."""

    a: str
    b: str
    reason: str
    source_a: str | None = None
    source_b: str | None = None
    newer: str | None = None


class Reworded(AnswerPart):
    """An atom that lost its thread over the question's wording, and the `question` in which it was asked again."""

    id: str
    question: str


class Answer(AnswerPart):
    """The answer to one question.

    `abstained`: the router found nothing that covers the question, so the base answered without knowledge,
    or, where the user wants it so, nobody did and `text` is REFUSAL.
    `confidence`: the router's probability that the store covers it (0 in mode none, which does not route).
    `latency_ms`: from the call, loading left out, to the end of the batch that held the question's last step.
    `prompt_tokens`: of its prompt and the reader's, without padding. `atoms` were routed, `behaviours` stood beside
    them in every statement. `mode` is the one that answered, also where auto chose it. `statement` is what the base
    said: in mode atoms one statement a line, one for each atom that says something new; nothing where only the reader
    spoke. `text` is the answer: the short one of `reader`, where one answered, else the statement. `reworded`: see
    `atomlora.statements`.
    `unanswerable`: the reader's probability that what it read does not answer the question; None where nothing was
    read, or by a reader that was not trained for it. `unanswered`: it was so probable that the reader gave no answer;
    in style auto `text` is the statement then, else UNANSWERED.
    """

    question: str
    text: str
    statement: str = ""
    reader: str | None = None
    abstained: bool
    confidence: float
    unanswered: bool = False
    unanswerable: float | None = None
    mode: Mode
    atoms: tuple[AnswerAtom, ...] = ()
    behaviours: tuple[AnswerAtom, ...] = ()
    dropped: tuple[Dropped, ...] = ()
    conflicts: tuple[Conflict, ...] = ()
    reworded: tuple[Reworded, ...] = ()
    latency_ms: float
    prompt_tokens: int


def is_text(value: str) -> bool:
    """Whether a string can be written as UTF-8: a lone surrogate, as bytes of another encoding on a command line give
    and half an escaped pair in JSON, cannot, and no tokenizer takes it."""
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_request(questions: Sequence[str], mode: str, top_k: int, max_new_tokens: int, style: str) -> None:
    """UsageError for what cannot be asked."""
    for number, question in enumerate(questions):
        if not question.strip():
            raise UsageError(f"question {number + 1} of {len(questions)} is empty; give a question")
        if not is_text(question):
            raise UsageError(f"question {number + 1} of {len(questions)} holds half a character; give it as UTF-8")
    if mode not in MODES:
        raise UsageError(f"--mode {mode}: unknown; use {', '.join(MODES)}")
    if style not in STYLES:
        raise UsageError(f"--style {style}: unknown; use {', '.join(STYLES)}")
    if top_k < 1:
        raise UsageError(f"--top-k must be at least 1, not {top_k}")
    if max_new_tokens < 1:
        raise UsageError(f"--max-new-tokens must be at least 1, not {max_new_tokens}")
