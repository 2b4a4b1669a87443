"""A question on its way through `AtomLoRA.ask`: what is decided about it, and the answer made of what was said."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from atomlora.answers import REFUSAL, Answer, AnswerAtom, Mode, Reworded, Style, check_request
from atomlora.errors import UsageError
from atomlora.modes import auto_mode
from atomlora.prompts import chat_prompt
from atomlora.turns import alone, joined, turns

if TYPE_CHECKING:
    from atomlora.atom import Atom
    from atomlora.composer import Selection
    from atomlora.full_context import Reply
    from atomlora.model import AtomLoRA
    from atomlora.router import Route, RoutedAtom, RouteFilter
    from atomlora.statements import Row, Statement


SURE = 0.55  # of style auto: a reader's answer that is less probable than this, as a whole, is unsure


class How(NamedTuple):
    """How questions are asked; see `AtomLoRA.ask`."""

    mode: Mode
    top_k: int
    max_new_tokens: int
    labels: Sequence[str] = ()
    style: Style | None = None
    where: RouteFilter | None = None


class Asked(NamedTuple):
    """A question, its route, what of it takes part, the mode that answers it, and the statements to be made, one for
    each turn (see `atomlora.turns`). `shown`: the texts that the reader sees, where it `reads`, and the base in mode
    text; `least`: the probability below which the reader's answer gives way to the statement. `where`: what might be
    routed. `refused`: it is off topic, and nobody is to answer it."""

    route: Route
    selection: Selection
    mode: Mode
    rows: list[Row]
    shown: tuple[str, ...] = ()
    reads: bool = False
    least: float = 0.0
    where: RouteFilter | None = None
    refused: bool = False


def ready(model: AtomLoRA, questions: Sequence[str], how: How) -> float:
    """`time.perf_counter()` when what can answer the questions is loaded. Raises UsageError for what cannot be asked,
    as a rule before anything is."""
    style = how.style or model.default_style
    check_request(questions, how.mode, how.top_k, how.max_new_tokens, style)
    _check_reader(model, style)
    model.load(routed=how.mode != "none")
    return time.perf_counter()


def prepare(model: AtomLoRA, questions: Sequence[str], how: How) -> list[Asked]:
    """Route the questions and decide what takes part in their answers. Raises UsageError for a question that has no
    room."""
    from atomlora.composer import Selection
    from atomlora.router import Route

    style = how.style or model.default_style
    if how.mode == "none":
        routes = [Route(question=q, atoms=(), abstained=False, confidence=0.0) for q in questions]
    else:
        routes = model.router.route_batch(questions, how.top_k, how.where)
    asked = []
    for route in routes:
        selection = Selection() if how.mode == "none" else model.composer.select(route, how.labels)
        mode = auto_mode(selection, model.atoms) if how.mode == "auto" else how.mode
        shown = shown_texts(selection, model.atoms) if mode in ("text", "both") else ()
        least = SURE if style == "auto" and mode != "text" else 0.0
        one = Asked(route, selection, mode, [], shown, _reads(model, selection, style), least, how.where)
        if route.abstained and model.off_topic == "refuse":
            asked.append(one._replace(refused=True))
            continue
        asked.append(one._replace(rows=_rows(model, one, how.max_new_tokens)))
    return asked


def answers(
    model: AtomLoRA, asked: Sequence[Asked], statements: Sequence[Sequence[Statement]], start: float
) -> list[Answer]:
    """The answers made of what was said for each question since `start` (`time.perf_counter()`). A reader's answer
    that does not stand in what was read, or that it is not sure of, is not given: then the statement is, where one was
    made. Where the reader refuses, the answer says so, but in style auto, where a statement was made."""
    from atomlora.reader.mounted import grounded

    stated = [joined([one.text for one in said]) for said in statements]
    # What a statement says already is not read a second time.
    texts = [joined([said, *one.shown]) for said, one in zip(stated, asked, strict=True)]
    read = _read(model, asked, texts)
    now = time.perf_counter()
    found = []
    for number, (one, said) in enumerate(zip(asked, statements, strict=True)):
        text, reader, tokens, ended = stated[number], None, 0, [statement.said_at for statement in said]
        if one.refused:
            text, ended = REFUSAL, [now]
        if (reply := read.get(number)) is not None:
            tokens, ended = reply.prompt_tokens, [now]
            given = reply.unanswered and not one.least
            if given or not text or (reply.sure and grounded(reply.text, texts[number])):
                text, reader = reply.text, reply.reader
        answer = Answer(
            question=one.route.question,
            text=text,
            statement=stated[number],
            reader=reader,
            abstained=one.route.abstained,
            confidence=one.route.confidence,
            unanswered=reply is not None and reply.unanswered,
            unanswerable=None if reply is None or reply.unanswerable is None else round(reply.unanswerable, 4),
            mode=one.mode,
            atoms=tuple(answer_atom(atom, model.atoms, one.where) for atom in one.selection.atoms),
            behaviours=tuple(answer_atom(atom, model.atoms) for atom in one.selection.beside),
            dropped=one.selection.dropped,
            conflicts=one.selection.conflicts,
            reworded=tuple(
                Reworded(id=row.mounted.atoms[0].id, question=statement.reworded)
                for row, statement in zip(one.rows, said, strict=True)
                if statement.reworded is not None
            ),
            latency_ms=round((max(ended) - start) * 1000, 3),
            prompt_tokens=tokens + (len(one.rows[0].prompt) if one.rows else 0),
        )
        found.append(answer)
    return found


def shown_texts(selection: Selection, atoms: Mapping[str, Atom]) -> tuple[str, ...]:
    """The texts of the selection's atoms, each once, the likeliest first."""
    return tuple(dict.fromkeys(atoms[atom.id].text for atom in selection.atoms))


def answer_atom(routed: RoutedAtom, atoms: Mapping[str, Atom], where: RouteFilter | None = None) -> AnswerAtom:
    """A routed atom with its text and the first place of it that `where` admits."""
    from atomlora.runtime.keys import seen_place

    atom = atoms[routed.id]
    facts = {"id": atom.id, "weight": routed.weight, "score": routed.score, "text": atom.text}
    return AnswerAtom.at(seen_place(atom, where), **facts)


def _rows(model: AtomLoRA, asked: Asked, max_new_tokens: int) -> list[Row]:
    """What the base is asked to state. Mode both states as mode atoms does, without the texts in the prompt: atoms
    were trained without, and say the wrong thing beside them. Where one loses its thread, its text stands for it, but
    beside a behaviour, whose tone that would not have. Where the reader reads, mode text states nothing."""
    from atomlora.runtime.decoding import check_room
    from atomlora.statements import Row

    mode, selection, question = asked.mode, asked.selection, asked.route.question
    if asked.reads and mode == "text":
        return []
    document = "\n".join(asked.shown) if mode == "text" and asked.shown else None
    prompt = chat_prompt(model.base.tokenizer, question, document)
    check_room(model.base, prompt, question, max_new_tokens)
    if mode not in ("atoms", "both") or not selection.atoms:
        return [Row(question, prompt, selection.bare())]
    rows = [Row(question, prompt, turn, alone(selection, n)) for n, turn in enumerate(turns(selection))]
    if mode == "atoms" or selection.beside:
        return rows
    return [row._replace(text=model.atoms[atom.id].text) for row, atom in zip(rows, selection.atoms, strict=True)]


def _check_reader(model: AtomLoRA, style: Style) -> None:
    """UsageError where the style asks for a reader that is not there, whether or not anything will be read."""
    if style == "statement":
        return
    reader = model.reader  # one that was named and is not there, or does not fit, is refused here
    if reader is None and style == "short":
        raise UsageError(
            f"--style short: there is no reader for base {model.base.name!r}; train one with `atomlora adapt` and give "
            "--reader DIR"
        )


def _reads(model: AtomLoRA, selection: Selection, style: Style) -> bool:
    """Whether the reader answers: where there is something to read, and no behaviour whose tone it would lose."""
    if style == "statement" or not selection.atoms or (style == "auto" and selection.beside):
        return False
    return model.reader is not None


def _read(model: AtomLoRA, asked: Sequence[Asked], texts: Sequence[str]) -> dict[int, Reply]:
    """What the reader says, by the question's number, where it reads and there is something to read."""
    rows = [number for number, text in enumerate(texts) if asked[number].reads and text]
    if not rows or model.reader is None:
        return {}
    questions, least = [asked[n].route.question for n in rows], [asked[n].least for n in rows]
    replies = model.reader.read(questions, [texts[n] for n in rows], least=least)
    return dict(zip(rows, replies, strict=True))
