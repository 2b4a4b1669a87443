"""What an atom is trained to say, and to which wordings.

A small question writer words its questions alike ("What is the name of ..."), and people do not. So beside written
questions an atom learns open ones about the phrases of its text, which tie its content words to the statement. On
the sample corpus they lift the share of people's questions that an atom answers, alone and at full weight, from 76
to 88 % (bench/RESULTS.md).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from atomlora.atom import BEHAVIOUR
from atomlora.questions.types import Question

WRITTEN_QUESTIONS = 3
OPEN_WORDINGS = ("What do you know about {}?", "Tell me about {}.", "What about {}?")
PHRASES = len(OPEN_WORDINGS)
_PHRASE_WORDS = 3
_PHRASE_LETTERS = 5
_WORD = re.compile(r"[\w'.,%°-]+")
_STOP_LIST = """
    a an the of and or to in on at by for with from as is are was were be been it its that this which who when where
    while after before than then so not no but has have had their her his they she he one into over under between up out
"""
_STOP_WORDS = frozenset(_STOP_LIST.split())


class Worded(Protocol):
    """What wordings are made of: an atom, or a draft of one."""

    @property
    def type(self) -> str:
        """`behaviour` for one that is trained from examples."""
        ...

    @property
    def title(self) -> str:
        """Of its document."""
        ...

    @property
    def headings(self) -> tuple[str, ...]:
        """Above its text, the outermost first."""
        ...

    @property
    def text(self) -> str:
        """What it states."""
        ...

    @property
    def questions(self) -> tuple[Question, ...]:
        """Those that were written or given for it."""
        ...


class Wording(NamedTuple):
    """A question and what the atom is to say to it."""

    question: str
    answer: str


def training_wordings(atom: Worded) -> Iterator[Wording]:
    """A user's answer is said as the user wrote it; to any other question the atom states its text, which holds the
    answer: a small base learns to state one thing for all wordings of a question far more surely than to pick spans
    of it, and the reader sees the answer in its sentence."""
    for question in explicit_questions(atom):
        if question.trained:
            yield Wording(question.text, question.answer if question.kind == "user" else atom.text)


def explicit_questions(atom: Worded, questions: Sequence[Question] | None = None) -> tuple[Question, ...]:
    """All questions of an atom (or `questions` in their place), the open wordings among them, each with `trained` set:
    as a question file set it, else by rule. The rule trains a user's questions, the first WRITTEN_QUESTIONS of a
    writer's, and the open wordings. Fill-in-the-blank questions hold most of the text, so they would teach nothing;
    they are keys for the router.
    """
    questions = atom.questions if questions is None else tuple(questions)
    if any(question.trained is not None for question in questions):
        return questions
    users = [_marked(q, trained=True) for q in questions if q.kind == "user"]
    if atom.type == BEHAVIOUR:
        return tuple(users)
    others = [q for q in questions if q.kind != "user"]
    first = [q for q in others if q.kind == "written"][:WRITTEN_QUESTIONS]
    opened = [wording.format(phrase) for wording, phrase in zip(OPEN_WORDINGS, phrases(atom.text), strict=False)]
    if not first and not opened:
        opened = [f"What about {' – '.join((atom.title, *atom.headings[-1:]))}?"]
    asked = [_marked(q, trained=q in first) for q in others]
    return (*users, *asked, *(Question(text=text, answer=atom.text, kind="open", trained=True) for text in opened))


def implicit_questions(atom: Worded, explicit: Sequence[Question]) -> tuple[Question, ...]:
    """The questions without marks and open wordings where the rule would give `explicit` again, so that an unedited
    question file makes the very atoms that no file makes; else `explicit`."""
    plain = tuple(_marked(q, trained=None) for q in explicit if q.kind != "open")
    again = explicit_questions(atom, plain)
    return plain if again == tuple(explicit) else tuple(explicit)


def _marked(question: Question, trained: bool | None) -> Question:
    return question.model_copy(update={"trained": trained})


def phrases(text: str) -> list[str]:
    """Up to PHRASES runs of words between stop words and punctuation, cut to their last three words; the longest
    first, for they say most."""
    found: list[str] = []
    run: list[str] = []
    for word in _WORD.findall(text):
        bare = word.strip(".,")
        if bare.lower() not in _STOP_WORDS and bare:
            run.append(bare)
        if run and (bare.lower() in _STOP_WORDS or word[-1] in ".,"):
            found.append(" ".join(run[-_PHRASE_WORDS:]))
            run = []
    if run:
        found.append(" ".join(run[-_PHRASE_WORDS:]))
    distinct = [phrase for phrase in dict.fromkeys(found) if len(phrase) >= _PHRASE_LETTERS]
    return sorted(distinct, key=len, reverse=True)[:PHRASES]
