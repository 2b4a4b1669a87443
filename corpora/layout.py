"""Sentences of a block of prose with their offsets; wrapped lines are told from one record a line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from atomlora.corpora.builder import one_line
from atomlora.corpora.documents import Document
from atomlora.corpora.sentences import sentence_spans

_KEY_VALUE = re.compile(r"^[A-Z\d][\w ()/'.&-]{0,40}:\s+\S")
_WRAP_SLACK = 15
_WIDE_SCRIPT = r"[\u3040-\u30ff\u3400-\u9fff\uff00-\uffef]"


@dataclass(frozen=True)
class Sentence:
    """`text` is `document.text[start:end]` with white space evened out."""

    start: int
    end: int
    text: str

    @cached_property
    def words(self) -> int:
        return max(len(self.text.split()), len(self.text) // 12)


def sentences_of(document: Document, start: int, end: int, hard_words: int) -> list[Sentence]:
    """The sentences of the prose between two offsets, in order."""
    found = []
    for line_start, line_end in _runs(document.text, start, end):
        for first, last in sentence_spans(document.text[line_start:line_end], hard_words):
            found.append(sentence(document, line_start + first, line_start + last))
    return found


def sentence(document: Document, start: int, end: int) -> Sentence:
    """The characters from `start` to `end` as one sentence."""
    return Sentence(start, end, unwrapped(document.text[start:end]))


def unwrapped(text: str) -> str:
    """Lines joined by blanks; none between characters of scripts that write without them."""
    return one_line(re.sub(rf"(?<={_WIDE_SCRIPT})\s*\n\s*(?={_WIDE_SCRIPT})", "", text))


def is_record(text: str) -> bool:
    """Whether a line is of the form "Key: value"."""
    return bool(_KEY_VALUE.match(text))


def _runs(text: str, start: int, end: int) -> list[tuple[int, int]]:
    """Stretches of wrapped lines. A break is meant, not wrapped, where both lines are "Key: value", or
    where the next line begins with a capital or a digit though its first word would have fitted on the line
    before.
    """
    lines, position = [], start
    for line in text[start:end].split("\n"):
        lines.append((position, position + len(line)))
        position += len(line) + 1
    width = max((stop - begin for begin, stop in lines), default=0)
    runs = [list(lines[0])]
    for before, after in pairwise(lines):
        upper, lower = text[slice(*before)].strip(), text[slice(*after)].strip()
        if _is_meant(upper, lower, width):
            runs.append(list(after))
        else:
            runs[-1][1] = after[1]
    return [(begin, stop) for begin, stop in runs]


def _is_meant(upper: str, lower: str, width: int) -> bool:
    if not upper or not lower:
        return True
    if is_record(upper) and is_record(lower):
        return True
    fits = len(upper) + 1 + len(lower.split(None, 1)[0]) <= width - _WRAP_SLACK
    return fits and (lower[0].isupper() or lower[0].isdigit())


def code_pieces(text: str, start: int, end: int, hard_words: int) -> Iterator[tuple[int, int]]:
    """Code cut at line ends (long lines as well) into pieces of about `hard_words` words."""
    piece_start, words, position = start, 0, start
    for line in text[start:end].splitlines(keepends=True):
        count = max(len(line.split()), len(line) // 12)
        if words and words + count > hard_words:
            yield piece_start, position
            piece_start, words = position, 0
        words += count
        position += len(line)
        while position - piece_start > 24 * hard_words:
            yield piece_start, piece_start + 12 * hard_words
            piece_start, words = piece_start + 12 * hard_words, 0
    if piece_start < end:
        yield piece_start, end
