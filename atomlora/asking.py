"""A question on its way through `AtomLoRA.ask`: what was decided about it, what was said, and the answer made of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from atomlora.answers import Answer, AnswerAtom, Mode, Style, check_request
from atomlora.errors import UsageError
from atomlora.prompts import chat_prompt
from atomlora.turns import played

if TYPE_CHECKING:
    from collections.abc import Mapping

    from atomlora.atom import Atom
    from atomlora.composer import Selection
    from atomlora.model import AtomLoRA
    from atomlora.reader.mounted import Reader
    from atomlora.router import Route, RoutedAtom


class How(NamedTuple):
    """How questions are asked; see `AtomLoRA.ask`."""

    mode: Mode
    top_k: int
    max_new_tokens: int
    labels: Sequence[str] = ()
    style: Style = "auto"


class Asked(NamedTuple):
    """A question, its route, what of it takes part, the mode that answers it, what is mounted in each turn (see
    `atomlora.turns`), the prompt's token ids, the texts to be read, and whether the reader answers (then texts stand
    in its prompt alone)."""

    route: Route
    selection: Selection
    mode: Mode
    turns: Sequence[Selection]
    prompt: Sequence[int]
    shown: str | None = None
    reads: bool = False


class Said(NamedTuple):
    """What came of a question: the answer's text, the statements it was made of, the reader's name where it answered,
    and the tokens of all its prompts."""

    text: str
    statement: str
    prompt_tokens: int
    reader: str | None = None


def prepare(model: AtomLoRA, questions: Sequence[str], how: How) -> list[Asked]:
    """Route the questions and decide what takes part in their answers. Raises UsageError for what cannot be asked."""
    from atomlora.composer import Selection
    from atomlora.router import Route
    from atomlora.runtime.decoding import check_room

    check_request(questions, how.mode, how.top_k, how.max_new_tokens, how.style)
    if how.mode == "none":
        routes = [Route(question=q, atoms=(), abstained=False, confidence=0.0) for q in questions]
    else:
        routes = model.router.route_batch(questions, how.top_k)
    asked = []
    for route in routes:
        selection = Selection() if how.mode == "none" else model.composer.select(route, how.labels)
        reads = _reads(model, selection, how.style)
        shown = shown_text(selection, model.atoms) if how.mode in ("text", "both") else None
        prompt = chat_prompt(model.base.tokenizer, route.question, None if reads else shown)
        check_room(model.base, prompt, route.question, how.max_new_tokens)
        asked.append(Asked(route, selection, how.mode, played(selection, how.mode, reads), prompt, shown, reads))
    return asked


def shown_text(selection: Selection, atoms: Mapping[str, Atom]) -> str | None:
    """The texts of the selection's atoms, each once, the likeliest first; None without atoms."""
    return "\n".join(dict.fromkeys(atoms[atom.id].text for atom in selection.atoms)) or None


def _reads(model: AtomLoRA, selection: Selection, style: Style) -> bool:
    """Whether the reader answers: where there is something to read, and no behaviour whose tone it would lose."""
    if style == "statement" or not selection.atoms or (style == "auto" and selection.beside):
        return False
    if model.reader is None and style == "short":
        raise UsageError(
            f"--style short: there is no reader for base {model.base.name!r}; train one with `atomlora adapt` and give "
            "--reader DIR"
        )
    return model.reader is not None


def read_statements(reader: Reader, asked: Sequence[Asked], statements: Sequence[str]) -> list[Said]:
    """What the reader makes of what was stated and shown. An answer that does not stand in what was read is not
    given: then the statement is (where nothing was stated, the reader has the word)."""
    from atomlora.reader.mounted import grounded

    texts = [
        "\n".join(part for part in (statement, one.shown) if part)
        for one, statement in zip(asked, statements, strict=True)
    ]
    rows = [row for row, text in enumerate(texts) if asked[row].reads and text]
    replies = reader.read([asked[row].route.question for row in rows], [texts[row] for row in rows])
    said = [stated(one, statement) for one, statement in zip(asked, statements, strict=True)]
    for row, reply in zip(rows, replies, strict=True):
        before = said[row]
        kept = reply.text if grounded(reply.text, texts[row]) or not before.statement else before.statement
        said[row] = Said(kept, before.statement, before.prompt_tokens + reply.prompt_tokens, reader.name)
    return said


def stated(asked: Asked, statement: str) -> Said:
    """The statement as the answer."""
    return Said(statement, statement, len(asked.prompt) if asked.turns else 0)


def answer_of(asked: Asked, said: Said, latency_ms: float, atoms: Mapping[str, Atom]) -> Answer:
    """The answer with all that took part in it."""
    return Answer(
        question=asked.route.question,
        text=said.text,
        statement=said.statement,
        reader=said.reader,
        abstained=asked.route.abstained,
        confidence=asked.route.confidence,
        mode=asked.mode,
        atoms=tuple(answer_atom(one, atoms) for one in asked.selection.atoms),
        behaviours=tuple(answer_atom(one, atoms) for one in asked.selection.beside),
        dropped=asked.selection.dropped,
        conflicts=asked.selection.conflicts,
        latency_ms=round(latency_ms, 3),
        prompt_tokens=said.prompt_tokens,
    )


def answer_atom(routed: RoutedAtom, atoms: Mapping[str, Atom]) -> AnswerAtom:
    """A routed atom with its text and where that stands."""
    atom = atoms[routed.id]
    place = atom.provenances[0] if atom.provenances else None
    return AnswerAtom(
        id=atom.id,
        weight=routed.weight,
        score=routed.score,
        source=place.source if place else None,
        start=place.start if place else None,
        end=place.end if place else None,
        text=atom.text,
    )
