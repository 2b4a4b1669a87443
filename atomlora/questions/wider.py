"""Answer candidates beyond names and numbers, for further rounds of questions: table cells, clauses that give a reason,
a purpose or a means, whole enumerations, and noun phrases.

They are found by the words between which they stand, so that some are no good answers: what is asked about them must
stand up to a writer's own checks. On 40 held-out SQuAD passages the patterns of `candidates` hit 64 % of the human
answers (token F1 of a half or more), and with the first 8 of these a text 95 % (bench/RESULTS.md).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from atomlora.questions.candidates import MAX_WORDS, Candidate, trim_stop_words
from atomlora.questions.words import ARTICLES, STOP_WORDS, content_words

_CELL = re.compile(r"(?:^|[;:]\s)[^:;]{2,40}:\s([^;:]{1,60})(?=;|$)")
_END = r"(?=[.;:,)]|$|\s(?:but|which|who|when|while|although|where)\b)"
_CLAUSES = (
    re.compile(rf"\b(?:because(?: of)?|due to|owing to|thanks to|as a result of)\s+([^.;:]+?){_END}", re.IGNORECASE),
    re.compile(rf"\b(?:in order to|so as to|so that|to)\s+([^.;:]+?){_END}", re.IGNORECASE),
    re.compile(rf"\b(?:by|through)\s+(\w+ing\s[^.;:]+?){_END}", re.IGNORECASE),
)
_ITEM = r"(?:[\w’'()/-]+\s){0,3}[\w’'()/-]+"
_LIST = re.compile(rf"({_ITEM}(?:,\s{_ITEM})*,?\s(?:and|or)\s{_ITEM})")
_WORD = re.compile(r"[\w’'°%/+-]+(?:\.\w+)*|[^\s\w]")
_LONGEST_PHRASE = 5
_KINDS = ("cell", "clause", "list", "phrase")


def wider(text: str, known: Collection[str] = ()) -> list[Candidate]:
    """Candidates of all kinds, cells first and phrases last, without those that have the content words of an answer in
    `known` or of one another."""
    seen = {tuple(content_words(answer)) for answer in known}
    found: list[Candidate] = []
    for kind, (start, end) in _spans(text):
        start, end = trim_stop_words(text, start, end)
        piece = text[start:end]
        content = tuple(content_words(piece))
        enough = any(len(word) > 1 for word in content) and len(piece.split()) <= MAX_WORDS
        if end > start and enough and content not in seen:
            seen.add(content)
            found.append(Candidate(text=piece, start=start, end=end, source=kind))
    return found


def _spans(text: str) -> Iterator[tuple[str, tuple[int, int]]]:
    cells = [match.span(1) for match in _CELL.finditer(text)]
    if len(cells) > 1:
        yield from (("cell", span) for span in cells)
    for pattern in _CLAUSES:
        for match in pattern.finditer(text):
            first = match.group(1).split()[0].lower()
            if len(match.group(1).split()) > 1 and (first not in STOP_WORDS | ARTICLES or pattern is _CLAUSES[0]):
                yield "clause", match.span(1)
    yield from (("list", match.span(1)) for match in _LIST.finditer(text) if "," in match.group(1))
    yield from (("phrase", span) for span in _phrases(text))


def _phrases(text: str) -> Iterator[tuple[int, int]]:
    """Runs of words between stop words and punctuation, and two runs that "of" joins; the longest first."""
    runs: list[tuple[int, int, int]] = []  # start, end, words
    joined: list[tuple[int, int, int]] = []
    start, end, count, link = 0, 0, 0, False
    for match in [*_WORD.finditer(text), None]:
        word = match.group().lower() if match is not None else "."
        if match is not None and word not in STOP_WORDS and re.match(r"[\w°]", word):
            start, end, count = (match.start() if not count else start), match.end(), count + 1
            continue
        if count:
            if link and runs:
                before = runs[-1]
                joined.append((before[0], end, before[2] + count + 1))
            runs.append((start, end, count))
            link = word == "of"
        elif word not in ARTICLES:  # "of the": still linked
            link = False
        count = 0
    short = [run for run in (*joined, *runs) if run[2] <= _LONGEST_PHRASE]
    for first, last, _ in sorted(short, key=lambda run: -run[2]):
        yield first, last
