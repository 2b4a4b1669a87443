"""Sentence boundaries with exact offsets.

nupunkt (MIT, pure Python, no model download; Punkt of Kiss and Strunk 2006 with many abbreviations)
finds the boundaries. Six repairs are added: no boundary inside an open round bracket before a lower-case
word or a digit ("(approx. 5 km. away)"); none inside a date with a full stop behind its day ("on 31. December
2024") or behind "max."; none after the ordinals and abbreviations of German; boundaries after the full stops of
Chinese and Japanese; a cut for runs of words that never end; references in square brackets stay with the sentence
before.
"""

import re
from functools import lru_cache
from typing import Any

from atomlora.corpora.german import is_german, runs_on

_WIDE_STOP = re.compile(r"[。！？]+[」』”’)）]*")
_REFERENCE = re.compile(r"(\[[^\[\]\n]{1,40}\])(?:\s+|$)")
_DAY = re.compile(r"\b(?:on|by|from|until|till|to|since|before|after|dated|and)\s+(?:[12]?\d|3[01])\.$", re.IGNORECASE)
_MONTH_YEAR = re.compile(
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December),?\s+\d{4}\b"
)
_SHORT = re.compile(r"(?<![\w/])(?<!\d\s)(?:max|min|avg|nom|typ|incl|excl)\.$", re.IGNORECASE)
_SPACE = re.compile(r"\s+")


@lru_cache(maxsize=1)
def _spans_function() -> Any:
    from nupunkt import sent_spans

    return sent_spans


def sentence_spans(text: str, max_words: int = 120) -> list[tuple[int, int]]:
    """Offsets `(start, end)` of the sentences of `text`, in order, without the white space around them.

    Line breaks count as blanks, so hand over one paragraph (or line) at a time. A "sentence" of more than
    `max_words` words (or 12 times as many characters) is cut at the best place before that.
    """
    spans: list[tuple[int, int]] = []
    german = is_german(text)
    for begin, finish in _raw_spans(_SPACE.sub(lambda match: " " * len(match.group()), text)):
        for start, end in _cut_wide(text, begin, finish):
            stripped = _strip(text, start, end)
            if stripped is None:
                continue
            reference = _REFERENCE.match(text, *stripped) if spans else None
            if reference:  # "... in 1990. [3] Ferro ..." refers back
                spans[-1] = (spans[-1][0], reference.end(1))
                rest = _strip(text, reference.end(), stripped[1])
                if rest is None:
                    continue
                stripped = rest
            if spans and _continues(text, spans[-1], stripped, german):
                spans[-1] = (spans[-1][0], stripped[1])
            else:
                spans.append(stripped)
    return [piece for span in spans for piece in _cut_long(text, *span, max_words)]


def _raw_spans(flat: str) -> list[tuple[int, int]]:
    """nupunkt's spans, filled up so that no character falls between two of them."""
    spans: list[tuple[int, int]] = []
    position = 0
    for start, end in _spans_function()(flat):
        start, end = max(start, position), max(end, position)
        if start > position and flat[position:start].strip():
            spans.append((position, start))
        spans.append((start, end))
        position = end
    if flat[position:].strip():
        spans.append((position, len(flat)))
    return spans


def _cut_wide(text: str, start: int, end: int) -> list[tuple[int, int]]:
    pieces = []
    for match in _WIDE_STOP.finditer(text, start, end):
        pieces.append((start, match.end()))
        start = match.end()
    pieces.append((start, end))
    return pieces


def _strip(text: str, start: int, end: int) -> tuple[int, int] | None:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return (start, end) if start < end else None


def _continues(text: str, previous: tuple[int, int], following: tuple[int, int], german: bool) -> bool:
    """Whether a boundary fell inside an open bracket, a date or a German sentence, or left nothing but punctuation
    behind."""
    rest = text[following[0] : following[1]]
    if not any(character.isalnum() for character in rest):
        return True
    before = text[max(previous[0], previous[1] - 400) : previous[1]]
    if before.count("(") > before.count(")") and (rest[0].islower() or rest[0].isdigit()):
        return True
    dated = _DAY.search(before) and _MONTH_YEAR.match(rest)
    shortened = rest[0].islower() and _SHORT.search(before)
    return bool(dated or shortened) or runs_on(before, rest, german)


def _cut_long(text: str, start: int, end: int, max_words: int) -> list[tuple[int, int]]:
    """Cut a run of words longer than a sentence can be: after ";" or ":", else ",", else any blank."""
    limit = max_words * 12
    pieces = []
    while end - start > limit or len(text[start:end].split()) > max_words:
        window = text[start : min(end, start + limit)]
        words = list(re.finditer(r"\S+", window))[:max_words]
        reach = words[-1].end() if len(words) > 1 else len(window)
        reach = min(reach, len(window))
        cut = _best_cut(window[:reach])
        stripped = _strip(text, start, start + cut)
        if stripped is not None:
            pieces.append(stripped)
        start += cut
        while start < end and text[start].isspace():
            start += 1
    if start < end:
        pieces.append((start, end))
    return pieces


def _best_cut(window: str) -> int:
    for pattern in (r"[;:]\s", r",\s", r"\s"):
        places = [match.end() for match in re.finditer(pattern, window)]
        if places and places[-1] > len(window) // 2:
            return places[-1]
    return len(window)
