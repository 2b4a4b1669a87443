"""BM25 over the atoms' key texts, as the share of the question that an atom accounts for.

A score is divided by what a document that holds every word of the question could reach, words unknown to the
store included. So it lies in [0, 1), compares across questions, and is low where the question speaks of other
things; on SQuAD sentences that fused better with cosines than raw BM25 did. Written out here rather than
taken from a library because of that and of leave-one-out scoring, which takes a text out of one document.

Source: Robertson and Zaragoza, The Probabilistic Relevance Framework: BM25 and Beyond (2009).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import unicodedata
from array import array
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from atomlora.router.cache import read_cache, write_cache

FORMAT = "words 2"  # of the cache: raise it with every change of what `words` gives
# Reading fewer documents takes a moment only, and they get no file
CACHED_FROM = 5_000
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
    return [_stem(word) for word in _WORD.findall(folded(text)) if word not in STOP_WORDS]


def folded(text: str) -> str:
    """Lower case; accents in one form, whichever a file system or keyboard gave, and no soft hyphens."""
    return text.lower() if text.isascii() else unicodedata.normalize("NFC", text.replace("\xad", "")).casefold()


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


class Collection(NamedTuple):
    """The part of the documents that rarities and lengths are taken from: bool (documents,), their number and mean
    length."""

    mask: np.ndarray
    size: int
    mean_length: float


class Postings(NamedTuple):
    """Which documents hold which words: those of word w are `numbers` int32 [starts[w]:starts[w + 1]], as often as
    `counts` float32 says; `lengths` float32 (documents,) in words."""

    words: tuple[str, ...]
    starts: np.ndarray
    numbers: np.ndarray
    counts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, documents: Sequence[str]) -> Postings:
        """Reads the documents."""
        vocabulary = _Vocabulary()
        tokens, ends = array("i"), np.zeros(len(documents) + 1, np.int64)
        for number, document in enumerate(documents):
            tokens.extend(map(vocabulary.__getitem__, _WORD.findall(folded(document))))
            ends[number + 1] = len(tokens)
        found = np.frombuffer(tokens, np.int32).astype(np.int64)
        owners = np.repeat(np.arange(len(documents)), np.diff(ends))[found >= 0]
        found = found[found >= 0]
        pairs, counts = np.unique(found * max(len(documents), 1) + owners, return_counts=True)
        held, numbers = np.divmod(pairs, max(len(documents), 1))
        return cls(
            tuple(vocabulary.stems),
            np.searchsorted(held, np.arange(len(vocabulary.stems) + 1)),
            numbers.astype(np.int32),
            counts.astype(np.float32),
            np.bincount(owners, minlength=len(documents)).astype(np.float32),
        )


class LexicalIndex:
    """BM25 over documents, or over the postings of documents that were read before."""

    def __init__(self, documents: Sequence[str] | Postings) -> None:
        self.postings = documents if isinstance(documents, Postings) else Postings.of(documents)
        self.lengths = self.postings.lengths
        self.count = len(self.lengths)
        self.mean_length = _mean_length(self.lengths)
        self._numbers = {word: number for number, word in enumerate(self.postings.words)}

    def collection(self, mask: np.ndarray) -> Collection:
        """The documents of a bool mask (documents,)."""
        return Collection(mask, int(mask.sum()), _mean_length(self.lengths[mask]))

    def score(
        self, question: str, replaced: tuple[int, str] | None = None, within: Collection | None = None
    ) -> np.ndarray:
        """float32 (documents,) in [0, 1). `replaced` = (document, text) scores as if that document held
        `text`; `within` as if there were no documents but those, and 0 for the others."""
        scores = np.zeros(self.count, np.float32)
        count, mean_length = (within.size, within.mean_length) if within else (self.count, self.mean_length)
        changed = Counter(words(replaced[1])) if replaced else Counter()
        best = 0.0
        for word in dict.fromkeys(words(question)):
            numbers, counts = self._holders(word)
            if within:
                kept = within.mask[numbers]
                numbers, counts = numbers[kept], counts[kept]
            lengths = self.lengths[numbers]
            if replaced:
                kept = numbers != replaced[0]
                numbers, counts, lengths = numbers[kept], counts[kept], lengths[kept]
                if changed[word]:
                    numbers = np.append(numbers, np.int32(replaced[0]))
                    counts = np.append(counts, np.float32(changed[word]))
                    lengths = np.append(lengths, np.float32(changed.total()))
            rarity = np.log1p((count - len(numbers) + 0.5) / (len(numbers) + 0.5))
            best += rarity * (K1 + 1)
            scores[numbers] += rarity * counts * (K1 + 1) / (counts + K1 * (1 - B + B * lengths / mean_length))
        return scores / np.float32(best) if best else scores

    def _holders(self, word: str) -> tuple[np.ndarray, np.ndarray]:
        number = self._numbers.get(word)
        if number is None:
            return np.zeros(0, np.int32), np.zeros(0, np.float32)
        part = slice(int(self.postings.starts[number]), int(self.postings.starts[number + 1]))
        return self.postings.numbers[part], self.postings.counts[part]


class _Vocabulary(dict[str, int]):
    """The number of each word as it is written, by its stem: {word: number}, -1 for stop words. Most words come again
    and again, so each is looked at once."""

    def __init__(self) -> None:
        super().__init__()
        self.stems: dict[str, int] = {}

    def __missing__(self, word: str) -> int:
        self[word] = -1 if word in STOP_WORDS else self.stems.setdefault(_stem(word), len(self.stems))
        return self[word]


def _mean_length(lengths: np.ndarray) -> float:
    return max(float(lengths.mean()), 1.0) if len(lengths) else 1.0


def open_lexical(documents: Sequence[str], path: Path | None = None) -> LexicalIndex:
    """The index over the documents: from the cache at `path` where it is whole and of the same texts, else made (and
    cached, where there are many). A cache that cannot be written (a read-only store) is no error."""
    if path is None or len(documents) < CACHED_FROM:
        return LexicalIndex(documents)
    digest = hashlib.sha256()
    for document in documents:
        digest.update(b"%d %s" % (len(document), document.encode(errors="surrogatepass")))
    stamp = f"{FORMAT} {digest.hexdigest()}"
    cached = read_cache(path, stamp)
    if cached is not None and (postings := _from_arrays(cached, len(documents))) is not None:
        return LexicalIndex(postings)
    index = LexicalIndex(documents)
    with contextlib.suppress(OSError):
        write_cache(path, stamp, _as_arrays(index.postings))
    return index


def _as_arrays(postings: Postings) -> dict[str, np.ndarray]:
    text = np.frombuffer("\n".join(postings.words).encode(errors="surrogatepass"), np.uint8)
    return {**postings._asdict(), "words": text}


def _from_arrays(arrays: dict[str, np.ndarray], documents: int) -> Postings | None:
    """None for arrays that do not belong together, as they do unless something else wrote the file."""
    try:
        words = arrays.pop("words").tobytes().decode(errors="surrogatepass")
        found = Postings(words=tuple(words.split("\n")) if words else (), **arrays)
        whole = found.starts[0] == 0 and found.starts[-1] == len(found.numbers) == len(found.counts)
        inside = not len(found.numbers) or 0 <= found.numbers.min() <= found.numbers.max() < documents
    except (TypeError, KeyError, IndexError, UnicodeDecodeError):
        return None
    fits = len(found.lengths) == documents and len(found.starts) == len(found.words) + 1
    ordered = bool((np.diff(found.starts) >= 0).all())
    return found if whole and inside and fits and ordered else None
