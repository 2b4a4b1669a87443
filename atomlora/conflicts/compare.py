"""Whether two statements contradict each other, told from their words alone.

Two sentences contradict when they say the same of the same thing but for one value: the frame (their content words
without values) is shared, and of one comparable kind of value each states another one. What makes two sentences speak
of different things rules a contradiction out: other names, other times, another case ("adults", "children"), titles of
one series ("Hotel Aster", "Hotel Borea"). The classes of contradiction (numeric, negation, factive by name) follow de
Marneffe, Rafferty and Manning, "Finding Contradictions in Text" (ACL 2008), whose rules, too, need co-reference of
event and subject first. No inference model is asked: none is at hand offline, and the rule has to be explainable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from atomlora.conflicts.values import Value, values
from atomlora.corpora.sentences import sentence_spans
from atomlora.router.lexical import words

FRAME_SHARED = 0.5  # of the content words of both sentences, for numbers and dates
FRAME_STRICT = 0.8  # where the difference is a name or a negation, or both stand in one document
LEAST_SHARED = 2

# Words that say which case is meant: where only one statement has one, it speaks of another case.
_CASES = frozenset(
    words(
        """
        adult child children infant baby student pupil senior pensioner member staff employee visitor guest resident
        weekday weekend holiday summer winter spring autumn morning afternoon evening night noon midnight day week month
        year single return double outbound inbound arrival departure arrive depart leave
        north south east west northern southern eastern western left right upper lower front rear stern bow port
        starboard first second third fourth last next previous former new old current maximum minimum least most
        average total before after above below inside outside domestic international online offline large small big
        heavy light hot cold open close opening closing buy sell import export man woman men women male female
        father mother son daughter brother sister husband wife assistance except only additional extra half per
        estimated planned begin end start finish birth death born died
        """
    )
)
_NEGATION_LIST = "not no never cannot without forbidden prohibited banned neither nor"
_NEGATIONS = frozenset(_NEGATION_LIST.split())
_SAME = {
    **dict.fromkeys(words("fee price cost charge amount"), "price"),
    **dict.fromkeys(words("day daily"), "day"),
    **dict.fromkeys(words("week weekly"), "week"),
    **dict.fromkeys(words("month monthly"), "month"),
    **dict.fromkeys(words("year yearly annual annually"), "year"),
}
_MODALS = frozenset(words("must may might shall should allowed permitted"))
_KINDS_OF_DOCUMENT = frozenset(
    words(
        """
        summary amendment amended history facts guide handbook manual minutes report notes notice revised revision
        version edition new old draft update updated overview list table policy rules terms glance introduction about
        january february march april may june july august september october november december
        """
    )
)
_NEGATED = re.compile(r"\b(?:" + "|".join(sorted(_NEGATIONS)) + r")\b|n['’]t\b", re.IGNORECASE)
_VALID_FROM = re.compile(
    r"\b(?:as of|as from|with effect from|effective(?: from)?|from|since|starting(?: on| from)?)\s*$", re.IGNORECASE
)
_CONDITION = re.compile(r"\b(?:with|over|under|above|below|beyond|if|when)(?:\s\w+)?\s*$", re.IGNORECASE)
# Of the numbers in a title these tell editions of a document apart; any other names a thing ("Invoice 1001").
_EDITION = re.compile(
    r"\b(?:version|rev(?:ision)?|v)\s*\d[\d./-]*\b|\b(?:\d{1,2}|(?:19|20)\d\d(?:\d{4})?)\b", re.IGNORECASE
)
# A number behind these words is a name: always of a place in a document, and of a thing unless it answers.
_PLACE_BEFORE = re.compile(
    r"\b(?:section|chapter|clause|article|paragraph|table|figure|page|step|appendix|abschnitt|kapitel|artikel|absatz|"
    r"tabelle|abbildung|seite|schritt|anlage|anhang)\s$",
    re.IGNORECASE,
)
_THING_BEFORE = re.compile(r"\b(?:version|release|button|room|building|line|taste|raum|n[or]\.)\s$", re.IGNORECASE)
_PRONOUN = re.compile(r"^(?:he|she|it|they|this|that|these|those|his|her|its|their)\b", re.IGNORECASE)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|must|may|can|will|costs?|takes?|stands?|lies|opens?|closes?)\b")
_LABEL = re.compile(r"([^:;]{1,60}):\s*([^;]+)(?:;|$)")


class Statement(NamedTuple):
    """What is compared: an atom's text with where it stood."""

    text: str
    title: str = ""
    headings: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


class Contradiction(NamedTuple):
    """The sentences that contradict, the differing pieces of each ("30 kilograms", "23 kilograms"), what they differ
    in, and the share of content words that the frames have in common."""

    a: str
    b: str
    value_a: str
    value_b: str
    kind: str
    shared: float


class _Sentence(NamedTuple):
    text: str
    found: list[Value]
    frame: frozenset[str]
    everything: frozenset[str]


def contradiction(a: Statement, b: Statement) -> Contradiction | None:
    """The clearest contradiction between two statements; None where they can both be true. Symmetric."""
    if a.text == b.text or _series(a, b):
        return None
    rows_a, rows_b = _cells(a.text), _cells(b.text)
    if rows_a or rows_b:
        return _rows(rows_a, rows_b, a, b) if rows_a and rows_b else None
    strict = bool(set(a.sources) & set(b.sources))
    found = [
        one
        for left in _sentences(a)
        for right in _sentences(b)
        if (one := _compared(left, right, a, b, strict)) is not None
    ]
    return max(found, key=lambda one: (one.shared, one.a, one.b), default=None)


@lru_cache(maxsize=65536)
def _sentences(statement: Statement) -> tuple[_Sentence, ...]:
    """What a statement says, sentence by sentence; an atom is compared with several neighbours."""
    text, sentences = _without_label(statement), []
    for start, end in sentence_spans(text):
        sentence = text[start:end]
        found = [value for value in values(sentence) if not _opens(value, sentence)]
        bare = sentence
        for value in reversed(found):
            bare = f"{bare[: value.start]} {bare[value.end :]}"
        sentences.append(_Sentence(sentence, found, _content(bare) - _NEGATIONS - _MODALS, _content(sentence)))
    return tuple(sentences)


def _content(text: str) -> frozenset[str]:
    """Content words, one for those that mean the same beside a value."""
    return frozenset(_SAME.get(word, word) for word in words(text))


def _opens(value: Value, sentence: str) -> bool:
    """Whether a "name" is but the first word of a sentence: a name of one word there may be any noun."""
    return value.is_name and value.start == 0 and len(value.key) == 1 and sentence.find(value.text, 1) < 0


def _without_label(statement: Statement) -> str:
    """The text without the title that was put before it for its subject's sake."""
    for label in (f"{statement.title}: ", *(f"{statement.title} – {heading}: " for heading in statement.headings)):
        if statement.title and statement.text.startswith(label):
            return statement.text.removeprefix(label)
    return statement.text


def _compared(left: _Sentence, right: _Sentence, a: Statement, b: Statement, strict: bool) -> Contradiction | None:
    pronoun = _PRONOUN.match(left.text) or _PRONOUN.match(right.text)
    if pronoun and (strict or (a.title, a.headings) != (b.title, b.headings)):
        return None  # "it" is who knows what, unless two versions of a document say it in one place
    shared_words = left.frame & right.frame
    union = left.frame | right.frame
    if _other_subject(left, right):
        return None
    names = _shared_names(left, right)
    shared = (len(shared_words) + len(names)) / max(1, len(union) + len(names))
    enough = len(shared_words) + len(names) >= LEAST_SHARED and bool(shared_words)
    if not enough or shared < FRAME_SHARED or (left.frame ^ right.frame) & _CASES:
        return None
    only_left = _unmatched(left, right, b)
    only_right = _unmatched(right, left, a)
    if _conditional(left, only_left) != _conditional(right, only_right):
        return None
    if any(value.is_name for value in only_left) and any(value.is_name for value in only_right):
        return _by_name(left, right, only_left, only_right, shared)
    dates = [value for value in (*only_left, *only_right) if value.is_date]
    kinds = [
        (one, two)
        for one in only_left
        for two in only_right
        if not one.is_name and one.comparable(two) and not one.agrees(two)
    ]
    numeric = [pair for pair in kinds if not pair[0].is_date]
    if numeric and not dates and (not strict or shared >= FRAME_STRICT):
        return _of(left, right, numeric, numeric[0][0].kind, shared)
    others = [value for value in (*only_left, *only_right) if not value.is_date and not value.is_name]
    if kinds and len(kinds) == 1 and not others and (not strict or shared >= FRAME_STRICT):
        return _of(left, right, kinds, "date", shared)
    same = not only_left and not only_right and shared >= FRAME_STRICT
    if same and bool(_NEGATED.search(left.text)) != bool(_NEGATED.search(right.text)):
        return Contradiction(left.text, right.text, left.text, right.text, "negation", shared)
    return None


def _by_name(
    left: _Sentence, right: _Sentence, only_left: Sequence[Value], only_right: Sequence[Value], shared: float
) -> Contradiction | None:
    """One name for another in a frame that is otherwise the same: the name answers, unless it is the subject, as it is
    before the verb of both."""
    if len(only_left) != 1 or len(only_right) != 1 or shared < FRAME_STRICT:
        return None
    pair = (only_left[0], only_right[0])
    verbs = [_VERB.search(sentence.text) for sentence in (left, right)]
    if any(verb is None or value.start < verb.start() for verb, value in zip(verbs, pair, strict=True)):
        return None
    return _of(left, right, [pair], "name", shared)


def _of(
    left: _Sentence, right: _Sentence, pairs: Sequence[tuple[Value, Value]], kind: str, shared: float
) -> Contradiction:
    one = ", ".join(dict.fromkeys(pair[0].text for pair in pairs))
    two = ", ".join(dict.fromkeys(pair[1].text for pair in pairs))
    return Contradiction(left.text, right.text, one, two, kind, shared)


def _conditional(sentence: _Sentence, only: Sequence[Value]) -> bool:
    """Whether one of these values says for which case the sentence holds ("with ten years of service")."""
    return any(not v.is_name and _CONDITION.search(sentence.text[: v.start]) for v in only)


def _unmatched(left: _Sentence, right: _Sentence, other: Statement) -> list[Value]:
    """The values of `left` that `right` does not state; dates from which something is valid, and names that stand in
    the other's title or text, do not count."""
    known = frozenset(words(" ".join((other.title, *other.headings)))) | right.everything
    return [
        value
        for value in left.found
        if not any(value.comparable(two) and value.agrees(two) for two in right.found)
        and not (value.is_name and frozenset(words(value.text)) <= known)
        and not (value.is_date and _VALID_FROM.search(left.text[: value.start]))
    ]


def _other_subject(left: _Sentence, right: _Sentence) -> bool:
    """Whether what stands before the verbs tells two subjects apart: by names, or by words of each that the other
    sentence does not have; or numbers that are names do."""
    numbered_left, numbered_right = _numbered(left), _numbered(right)
    if numbered_left and numbered_right and numbered_left != numbered_right:
        return True
    parts = []
    for sentence in (left, right):
        verb = _VERB.search(sentence.text)
        end = verb.start() if verb else min((v.start for v in sentence.found if v.start), default=0)
        parts.append((_content(sentence.text[:end]), [v for v in sentence.found if v.is_name and v.end <= end]))
    (words_left, names_left), (words_right, names_right) = parts
    if names_left and names_right and not any(one.agrees(two) for one in names_left for two in names_right):
        return True
    only_left = (words_left & left.frame) - right.everything
    only_right = (words_right & right.frame) - left.everything
    return bool(only_left and only_right)


def _numbered(sentence: _Sentence) -> set[str]:
    """The numbers that are names, as they are written ("version 2.1" is not 2.10); what follows a verb answers ("is in
    room 12")."""
    found = set()
    for value in sentence.found:
        before = sentence.text[: value.start]
        named = _PLACE_BEFORE.search(before) or (_THING_BEFORE.search(before) and not _VERB.search(before))
        if named and value.kind in ("number", "date"):
            found.add(value.text)
    return found


def _shared_names(left: _Sentence, right: _Sentence) -> set[str]:
    return {
        " ".join(map(str, one.key))
        for one in left.found
        if one.is_name and any(two.is_name and one.agrees(two) for two in right.found)
    }


def _series(a: Statement, b: Statement) -> bool:
    """Whether the titles name two things of one series ("Hotel Aster", "Hotel Borea"), of which other things hold: all
    but their beginning or their end is shared, and no word of what differs stands in the other statement."""
    left, right = ([w for w in words(_EDITION.sub(" ", one.title)) if w not in _KINDS_OF_DOCUMENT] for one in (a, b))
    if not left or not right or (left[0] != right[0] and left[-1] != right[-1]):
        return False
    only_left = set(left) - set(right) - set(words(" ".join((b.text, *b.headings))))
    only_right = set(right) - set(left) - set(words(" ".join((a.text, *a.headings))))
    return bool(only_left & _capitals(a.title) and only_right & _capitals(b.title))


def _capitals(title: str) -> set[str]:
    return {found for word in title.split() for found in words(word) if word[:1].isupper() or found.isdigit()}


def _cells(text: str) -> dict[str, str]:
    """{label: value} of a table row as the splitter words it, `Caption: Label: value; Label: value`; {} of prose."""
    if text.count(";") < 1 or text.count(":") < 2:
        return {}
    body = re.sub(r"^[^:;]+:\s+(?=[^:;]+:\s)", "", text)
    return {label.strip().lower(): value.strip() for label, value in _LABEL.findall(body)}


def _rows(left: dict[str, str], right: dict[str, str], a: Statement, b: Statement) -> Contradiction | None:
    """Two rows of one entity (the first cell) whose common columns differ."""
    first = next(iter(left))
    if first not in right or left[first].lower() != right[first].lower() or set(a.sources) & set(b.sources):
        return None
    common = [label for label in left if label in right and label != first]
    differing = [label for label in common if left[label].lower() != right[label].lower()]
    if not differing:
        return None
    one, two = (", ".join(f"{label}: {row[label]}" for label in differing) for row in (left, right))
    return Contradiction(a.text, b.text, one, two, "table", len(common) / max(len(left), len(right)))
