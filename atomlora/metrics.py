"""How answers are scored: exact match, F1 and containment, and an interval for a share.

Normalisation after SQuAD's evaluation script (Rajpurkar et al., arXiv 1606.05250: lower case, no punctuation,
no articles), with differences, because short facts are often numbers: marks between digits stay apart ("5.40" is not
"540", "0290-08-29" is three numbers), marks that group thousands go ("212,400" is "212400"), a minus stays ("-18" is
not "18"), and a power or a fraction is a word of its own ("10²" is not "102"). Chinese and Japanese characters are
words each.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import Literal

ARTICLES = frozenset({"a", "an", "the"})
AnswerRule = Literal["any", "all"]
"""`any`: the golden answers are alternatives, the best counts; `all`: every one is required."""

_GROUPED = re.compile(r"(?<![\d.,])\d{1,3}(?:[,’]\d{3})+(?![\d,])")
_APART = re.compile("(?<=\\d)(?=[⁰¹²³⁴-⁹¼-¾⅐-⅞])")
_CHARACTER = re.compile("([\u3040-\u30ff\u3400-\u9fff])")
_RESAMPLES = 2000


def normalise(text: str) -> list[str]:
    """The words of `text` that scoring compares; articles only where there is nothing else."""
    plain = unicodedata.normalize("NFKC", _APART.sub(" ", text)).casefold()
    plain = _GROUPED.sub(lambda found: found.group().replace(",", "").replace("’", ""), plain)
    plain = _CHARACTER.sub(r" \1 ", plain)
    words = "".join(_kept(plain, position) for position in range(len(plain))).split()
    return [word for word in words if word not in ARTICLES] or words


def exact_match(answer: str, golden: Sequence[str], rule: AnswerRule = "any") -> float:
    """1.0 where the answer says a golden answer and nothing else, else 0.0. With rule `all` the golden
    answers may come in any order and be joined by "and"."""
    words = normalise(answer)
    if rule == "any":
        return float(any(words == normalise(one) for one in golden))
    required = normalise(" ".join(golden))
    return float(_without_and(words) == _without_and(required))


def f1(answer: str, golden: Sequence[str], rule: AnswerRule = "any") -> float:
    """Harmonic mean of precision and recall over words, in [0, 1]; with rule `all` against all golden answers
    joined."""
    words = normalise(answer)
    wanted = [" ".join(golden)] if rule == "all" else golden
    return max(_overlap(words, normalise(one)) for one in wanted)


def contains(answer: str, golden: Sequence[str], rule: AnswerRule = "any") -> float:
    """1.0 where a golden answer (rule `all`: every one) stands in the answer as whole words, else 0.0."""
    words = normalise(answer)
    found = [_stands_in(normalise(one), words) for one in golden]
    return float(all(found) if rule == "all" else any(found))


def mean(values: Sequence[float]) -> float:
    """Arithmetic mean; 0.0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def bootstrap_interval(hits: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 95 % percentile bootstrap interval of the mean of `hits`, each 0.0 or 1.0.

    A resample of n such values has a binomial number of ones, so that is what is drawn (Efron, 1979).
    """
    import numpy as np

    count = len(hits)
    if not count:
        return 0.0, 0.0
    draws = np.random.default_rng(seed).binomial(count, mean(hits), _RESAMPLES) / count
    low, high = np.percentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _kept(text: str, position: int) -> str:
    """What scoring keeps of one character: itself, a space, or nothing."""
    mark = text[position]
    kind = unicodedata.category(mark)[0]
    if kind not in "PS":
        return mark
    before, after = text[max(0, position - 1) : position], text[position + 1 : position + 2]
    if before.isdecimal() and after.isdecimal():
        return mark if mark in ".:," else " "
    if mark in "-−" and after.isdecimal() and not before.strip():
        return "-"
    return " " if mark in "–—/" else ""


def _without_and(words: Sequence[str]) -> Counter[str]:
    return Counter(word for word in words if word != "and")


def _overlap(words: Sequence[str], wanted: Sequence[str]) -> float:
    if not words or not wanted:
        return float(words == wanted)
    common = sum((Counter(words) & Counter(wanted)).values())
    if not common:
        return 0.0
    precision, recall = common / len(words), common / len(wanted)
    return 2 * precision * recall / (precision + recall)


def _stands_in(wanted: Sequence[str], words: Sequence[str]) -> bool:
    if not wanted:
        return False
    size = len(wanted)
    return any(list(words[at : at + size]) == list(wanted) for at in range(len(words) - size + 1))
