"""Which written questions are kept, and in what order.

A question trains an atom, so one wrong question costs more than a missing one: what does not look like a
question about this text with this answer is dropped.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise

from atomlora.questions.german import asks_in_german
from atomlora.questions.types import Question
from atomlora.questions.words import ARTICLES, STOP_WORDS, content_words, has_number, names_time, words

_ASKS = re.compile(r"\b(?:what|who|whom|whose|which|when|where|why|how)\b", re.IGNORECASE)
_SAME_ANSWER_OVERLAP = 0.8
_ANSWER_SHARE = 0.6


def normalised(text: str) -> str:
    """Lower-case words without articles and punctuation: two questions that agree in it are one."""
    return " ".join(word for word in words(text) if word not in ARTICLES)


def gives_away(question: str, answer: str) -> bool:
    """True if the answer, or at least 60 % of its content words, stands in the question."""
    asked = f" {normalised(question)} "
    wanted = normalised(answer)
    if not wanted or f" {wanted} " in asked or (answer.lower() in question.lower() and len(answer) > 3):
        return True
    parts = content_words(answer)
    known = set(asked.split())
    return bool(parts) and sum(part in known for part in parts) / len(parts) >= _ANSWER_SHARE


def well_formed(question: str) -> bool:
    """A single question of 3 to 40 words with an English or German question word and a question mark at its end."""
    text = question.strip()
    single = text.endswith("?") and text.count("?") == 1 and 3 <= len(text.split()) <= 40
    return single and (_ASKS.search(text) is not None or asks_in_german(text))


def stutters(question: str) -> bool:
    """True if a word follows itself or two words in a row, one of them with content, come twice."""
    parts = words(question)
    pairs = list(pairwise(parts))
    meaning = [pair for pair in pairs if any(word not in STOP_WORDS for word in pair)]
    return any(one == other for one, other in pairs) or len(set(meaning)) < len(meaning)


def fits_answer(question: str, answer: str) -> bool:
    """False where the question word asks for another kind of thing than the answer is."""
    asked = question.lower()
    if re.search(r"\bhow (?:many|much|long|old|far|tall|high|deep|often|large|big|fast)\b", asked):
        return has_number(answer) or not re.search(r"\bhow many\b", asked)
    if re.search(r"\b(?:what|which) (?:year|date|century|decade)\b", asked):
        return any(c.isdigit() for c in answer) or "centur" in answer
    if re.match(r"when\b", asked):
        return names_time(answer)
    if re.match(r"(?:who|whom|whose|where|why|wer|wem|wessen|warum|weshalb)\b", asked):
        return re.fullmatch(r"[\d.,:$€£%\s-]+(?:%|percent|am|pm)?", answer) is None
    return True


def invents(question: str, context: str) -> bool:
    """True if the question names a number or a capitalised word that stands neither in the text nor in its
    titles. Capitals of a German question are not judged: it has one on every noun."""
    known = set(words(context))
    german = _ASKS.search(question) is None and asks_in_german(question)
    for position, word in enumerate(re.findall(r"[\w][\w'’.-]*", question)):
        plain = words(word)
        if not plain or plain[0] in known:
            continue
        capital = not german and word[0].isupper() and position > 0 and _ASKS.fullmatch(word) is None and word != "I"
        # Part of a compound that the text spells otherwise ("Ferreira's", "18-hour") is no invention.
        spelt = any(piece in known for piece in re.split(r"\W+", word.lower()) if len(piece) > 1)
        if (capital or any(c.isdigit() for c in word)) and not spelt:
            return True
    return False


def acceptable(question: Question, context: str) -> bool:
    """All tests on one question alone; `context` is title, headings and text."""
    return well_formed(question.text) and not _spoilt(question.text, question.answer, context)


def doomed(begun: str, answer: str, context: str) -> bool:
    """True if a question that begins with the whole words `begun` cannot become `acceptable`, however it
    goes on after the next blank: writing may stop there."""
    return "?" in begun or _spoilt(begun, answer, context)


def _spoilt(text: str, answer: str, context: str) -> bool:
    """Faults of a question that show in its beginning already, and that no ending mends."""
    return stutters(text) or gives_away(text, answer) or not fits_answer(text, answer) or invents(text, context)


def select(questions: Sequence[Question], max_questions: int, fallback: Sequence[Question] = ()) -> list[Question]:
    """At most `max_questions`: one for each distinct answer first (best score first), then those of
    `fallback` whose answer nobody asks about, then further wordings.

    Of questions that agree in words but not in the answer, the likelier one (by score, or the earlier) is kept; of
    near-duplicates with the same answer (80 % of the content words shared) also.
    """
    kept: list[Question] = []
    for question in sorted(questions, key=_order):
        if not any(_collides(question, other) for other in kept):
            kept.append(question)
    first: dict[str, Question] = {}
    further: list[Question] = []
    for question in kept:
        if first.setdefault(normalised(question.answer), question) is not question:
            further.append(question)
    bare = [question for question in fallback if normalised(question.answer) not in first]
    return [*first.values(), *bare, *further][:max_questions]


def _order(question: Question) -> tuple[float, str, str]:
    """Best score first; questions without one stay in their writer's order."""
    return (0.0, "", "") if question.score is None else (-question.score, question.answer, question.text)


def _collides(one: Question, other: Question) -> bool:
    if normalised(one.text) == normalised(other.text):
        return True
    left, right = set(content_words(one.text)), set(content_words(other.text))
    asks = _ASKS.findall(one.text.lower()) == _ASKS.findall(other.text.lower())
    if normalised(one.answer) != normalised(other.answer):
        return asks and left == right
    return asks and len(left & right) >= _SAME_ANSWER_OVERLAP * max(1, len(left | right))
