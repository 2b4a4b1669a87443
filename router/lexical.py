"""BM25 over the atoms' key texts, as the share of the question that an atom accounts for.

A score is divided by what a document that holds every word of the question could reach, words unknown to the
store included. So it lies in [0, 1), compares across questions, and is low where the question speaks of other
things; on SQuAD sentences that fused better with cosines than raw BM25 did. Written out here rather than
taken from a library because of that and of leave-one-out scoring, which takes a text out of one document.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

# saturation and length normalisation: low, because documents are atoms (a sentence or a passage and its
# questions)
K1 = 0.6
B = 0.5
_WORD = re.compile(r"\w+")
STOP_WORDS = frozenset(
    """
    a about am an and any are as at be been but by can could did do does for from had has have he her his how
    i if in into is it its me my not of on or our please s she should so some such t tell than that the their
    them then there these they this those to us was we were what when where which who whom whose why will with
    would you your
    """.split()  # noqa: SIM905
)


def words(text: str) -> list[str]:
    """Lower-case words without stop words, with the commonest English endings taken off."""
    return [_stem(word) for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


def _stem(word: str) -> str:
    if not word.isascii() or not word.isalpha():
        return word
    if len(word) > 3 and word.endswith("ies"):
        word = word[:-3] + "y"
    elif len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us")):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if len(word) > len(ending) + 3 and word.endswith(ending):
            word = word[: -len(ending)]
            break
    if len(word) > 4 and word.endswith("e"):
        word = word[:-1]
    if len(word) > 4 and word.endswith("ly"):
        word = word[:-2]
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "lsz":
        word = word[:-1]
    return word


class LexicalIndex:
    """Postings of documents: per word the document numbers int32 and the counts float32."""

    def __init__(self, documents: Sequence[str]) -> None:
        postings: dict[str, tuple[list[int], list[int]]] = {}
        self.lengths = np.zeros(len(documents), np.float32)
        for number, document in enumerate(documents):
            counts = Counter(words(document))
            self.lengths[number] = counts.total()
            for word, count in counts.items():
                numbers, found = postings.setdefault(word, ([], []))
                numbers.append(number)
                found.append(count)
        self.count = len(documents)
        self.mean_length = max(float(self.lengths.mean()), 1.0) if len(documents) else 1.0
        self._postings = {
            word: (np.array(numbers, np.int32), np.array(found, np.float32))
            for word, (numbers, found) in postings.items()
        }

    def score(self, question: str, replaced: tuple[int, str] | None = None) -> np.ndarray:
        """float32 (documents,) in [0, 1). `replaced` = (document, text) scores as if that document held
        `text`."""
        scores = np.zeros(self.count, np.float32)
        changed = Counter(words(replaced[1])) if replaced else Counter()
        best = 0.0
        for word in set(words(question)):
            numbers, counts = self._postings.get(word, (np.zeros(0, np.int32), np.zeros(0, np.float32)))
            lengths = self.lengths[numbers]
            if replaced:
                kept = numbers != replaced[0]
                numbers, counts, lengths = numbers[kept], counts[kept], lengths[kept]
                if changed[word]:
                    numbers = np.append(numbers, np.int32(replaced[0]))
                    counts = np.append(counts, np.float32(changed[word]))
                    lengths = np.append(lengths, np.float32(changed.total()))
            rarity = np.log1p((self.count - len(numbers) + 0.5) / (len(numbers) + 0.5))
            best += rarity * (K1 + 1)
            scores[numbers] += rarity * counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / self.mean_length))
        return scores / np.float32(best) if best else scores
