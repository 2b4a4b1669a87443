"""What an instruct model is asked for questions, and what of its reply is believed.

The reply must be JSON. Every question in it stands or falls alone: its answer must be words of the text, and it must
pass the filters that all written questions pass.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeGuard

from atomlora.questions.cloze import cloze_questions
from atomlora.questions.filters import acceptable, select
from atomlora.questions.prompts import squeeze, title_path
from atomlora.questions.types import AtomText, Question
from atomlora.questions.words import content_words, words

VERSION = "2"  # part of writers' digests: raise it when the same model would be asked or believed otherwise
_SYSTEM = (
    "You write quiz questions about a short text for people who cannot see it. Each question therefore names what it "
    'is about and never says "the text", "the passage" or "it". Each answer is a few words copied from the text '
    "exactly, and does not stand in its question. Ask about every fact: names, numbers with their units, dates, "
    "reasons, items of lists, code identifiers. Where there is room, ask about a fact again in other words, and the "
    "other way round. Reply with JSON and nothing else, in this form: "
    '{"questions": [{"question": "...", "answer": "..."}]}'
)
_FENCE = re.compile(r"\s*```(?:json)?(.*)```\s*", re.DOTALL)
_THOUGHTS_END = "</think>"
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character: JSON can name it, UTF-8 cannot hold it


class Pair(NamedTuple):
    """A question and its answer as the model gave them."""

    question: str
    answer: str


def messages(atom: AtomText, max_questions: int, earlier: Sequence[Pair] = ()) -> list[dict[str, str]]:
    """The chat that asks for up to `max_questions` questions about one text, others than those that the model gave
    `earlier`."""
    path = title_path(atom.title, atom.headings)
    head = f"Title: {path}\n" if path else ""
    asked = f"{head}Text: {squeeze(atom.text)}\n\nWrite {max_questions} questions as JSON."
    chat = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": asked}]
    if earlier:
        given = json.dumps({"questions": [pair._asdict() for pair in earlier]}, ensure_ascii=False)
        again = (
            f"Write {max_questions} more as JSON: about facts that these leave out, and the other way round where one "
            "of them can be turned round. Repeat none."
        )
        chat += [{"role": "assistant", "content": given}, {"role": "user", "content": again}]
    return chat


def parse_reply(content: str) -> list[Pair] | None:
    """The pairs of a reply that is JSON of the asked form (in a code fence or not), else those of the complete objects
    in it, behind whatever the model thought aloud; None where there are none."""
    said = content.rpartition(_THOUGHTS_END)[2]
    for text in (content, said):
        fenced = _FENCE.fullmatch(text)
        try:
            value = json.loads(fenced.group(1) if fenced else text)
        except (ValueError, RecursionError):
            continue
        listed = value.get("questions") if isinstance(value, dict) else value
        return _pairs(listed) if isinstance(listed, list) else None
    return salvage_reply(said) or None


def salvage_reply(content: str) -> list[Pair]:
    """The pairs of every complete JSON object in a reply: small models forget a bracket, or are cut off."""
    decoder, found, at = json.JSONDecoder(), [], content.find("{")
    while at >= 0:
        try:
            value, end = decoder.raw_decode(content, at)
        except (ValueError, RecursionError):
            value, end = None, at + 1
        found += _pairs(value["questions"] if isinstance(value, dict) and _listed(value) else [value])
        at = content.find("{", end)
    return found


def checked(atom: AtomText, pairs: Iterable[Pair], max_questions: int) -> list[Question]:
    """The questions that hold, in the model's order, at most `max_questions`; names and numbers that none of them
    asks for get a cloze question."""
    context = " ".join((atom.title, *atom.headings, atom.text))
    written = []
    for pair in pairs:
        answer = verbatim(atom.text, pair.answer)
        if answer is not None:
            question = Question(text=squeeze(pair.question), answer=answer, kind="written")
            if acceptable(question, context):
                written.append(question)
    return select(written, max_questions, cloze_questions(atom, sure=True)) or cloze_questions(atom)[:max_questions]


def verbatim(text: str, answer: str) -> str | None:
    """The answer as the text spells it, in whole words; None where it does not stand there."""
    parts = [re.escape(part) for part in answer.strip(" .,;:").split()]
    match = re.search(r"(?<!\w)" + r"\s+".join(parts) + r"(?!\w)", text, re.IGNORECASE) if parts else None
    return None if match is None else squeeze(match.group())


def answering(atom: AtomText, question: str) -> list[dict[str, str]]:
    """The chat that asks a question with the text at hand."""
    asked = f"{squeeze(atom.text)}\n\nQuestion: {question}\nAnswer with a few words of the text, or with: unknown."
    return [{"role": "user", "content": asked}]


def agrees(answer: str, reply: str) -> bool:
    """Whether a reply has at least half of the answer's content words and not three times as many of its own."""
    wanted, said = set(content_words(answer) or words(answer)), set(content_words(reply) or words(reply))
    return bool(wanted) and len(wanted & said) * 2 >= len(wanted) and len(said) <= 3 * len(wanted) + 3


def _listed(value: dict[Any, Any]) -> bool:
    return isinstance(value.get("questions"), list)


def _pairs(listed: list[Any]) -> list[Pair]:
    given = [(one.get("question"), one.get("answer")) for one in listed if isinstance(one, dict)]
    return [Pair(question, answer) for question, answer in given if _sound(question) and _sound(answer)]


def _sound(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and _SURROGATE.search(value) is None
