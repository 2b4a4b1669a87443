"""Answer candidates of an atom's text: a deterministic supplement, and the merging of it with the writer's
spans.

The supplement finds what people are asked about and what patterns find surely: dates, times, money,
quantities with units, counts, capitalised names, quoted strings, code identifiers, and the complement of "X
is/are Y". It is also the whole source of candidates for the model-free writer. Every candidate is a
verbatim piece of the text.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from pydantic import BaseModel, ConfigDict

from atomlora.questions.patterns import ADJECTIVE_END, COMPLEMENT, PARTICIPLE_END, PATTERNS
from atomlora.questions.words import ARTICLES, STOP_WORDS

MAX_WORDS = 12


class Candidate(BaseModel):
    """A verbatim answer candidate: `text` stands at [start, end) of the atom's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    text: str
    start: int
    end: int
    source: str
    votes: int = 1

    @property
    def pattern(self) -> bool:
        """True where a sure pattern found it, False for the writer's spans and for complements."""
        return self.source not in ("span", "complement")


def supplement(text: str) -> list[Candidate]:
    """Pattern candidates of `text` in the order of their appearance; none overlaps another."""
    found: list[Candidate] = []
    taken = [False] * len(text)
    for source, pattern in PATTERNS:
        for match in pattern.finditer(text):
            group = next((g for g in range(1, (match.lastindex or 0) + 1) if match.group(g)), 0)
            start, end = match.span(group)
            if source == "name":
                start, end = _trim_name(text, start, end)
                if any(taken[start:end]):  # "Anna 12 kg": the number belongs to what follows
                    end = start + len(re.sub(r"\s\d+$", "", text[start:end]))
            if end <= start or any(taken[start:end]) or not _useful(text[start:end], source):
                continue
            taken[start:end] = [True] * (end - start)
            found.append(Candidate(text=text[start:end], start=start, end=end, source=source))
    for match in COMPLEMENT.finditer(text):
        start, end = trim_stop_words(text, *match.span(1))
        phrase = text[start:end].lower().split()
        if end <= start or any(taken[start:end]) or not _useful(text[start:end], "complement"):
            continue
        # Without an article only what ends its clause: "entry is free." but not "is stronger in ...".
        bare = match.group(1).split()[0].lower() not in ARTICLES and text[end : end + 1].isspace()
        if bare or phrase[0].endswith((*PARTICIPLE_END, "ly")) or phrase[0] in STOP_WORDS:
            continue
        found.append(Candidate(text=text[start:end], start=start, end=end, source="complement"))
    return sorted(found, key=lambda c: c.start)


def locate(text: str, span: str) -> tuple[int, int] | None:
    """Where `span` stands in `text` as whole words (white space may differ), without outer articles and
    stop words."""
    parts = [re.escape(part) for part in span.strip(" .,;:|").split()]
    if not parts:
        return None
    pattern = r"(?<!\w)" + r"\s+".join(parts) + r"(?!\w)"
    match = re.search(pattern, text) or re.search(pattern, text, re.IGNORECASE)
    if match is None:
        return None
    start, end = trim_stop_words(text, match.start(), match.end())
    return (start, end) if end > start else None


def merge(text: str, spans: Iterable[Sequence[str]], limit: int) -> list[Candidate]:
    """The supplement and the writer's span lists as one list without overlaps, at most `limit`, in text
    order.

    Of overlapping candidates one stays: a pattern's (complete with unit or full name) before a span, then
    the span that more lists name, then the shorter one. Where more than `limit` remain, patterns go before
    spans.
    """
    votes: dict[tuple[int, int], int] = {}
    for listed in spans:
        for place in {place for span in listed if (place := locate(text, span)) is not None}:
            votes[place] = votes.get(place, 0) + 1
    pool = supplement(text)
    pool += [
        Candidate(text=text[start:end], start=start, end=end, source="span", votes=count)
        for (start, end), count in votes.items()
        if _useful(text[start:end], "span")
    ]
    pool.sort(key=lambda c: (not c.pattern, c.source == "complement", -c.votes, c.end - c.start, c.start))
    kept: list[Candidate] = []
    for candidate in pool:
        clash = any(candidate.start < k.end and k.start < candidate.end for k in kept)
        if not clash and all(candidate.text.lower() != k.text.lower() for k in kept):
            kept.append(candidate)
    return sorted(kept[:limit], key=lambda c: c.start)


def _useful(piece: str, source: str) -> bool:
    """At least one word that is no stop word, and more than one letter (single digits count for numbers)."""
    parts = re.findall(r"\w+", piece)
    if source in ("number", "quantity", "money", "date", "time", "century"):
        return (
            any(c.isdigit() for c in piece)
            or source != "number"
            or piece.lower() not in ("hundred", "thousand", "million")
        )
    if not parts or len(parts) > MAX_WORDS or (len(piece.strip()) < 2 and not piece.strip().isdigit()):
        return False
    if source == "span" and len(parts) <= 2 and parts[0].lower().endswith("ly"):  # "widely presented"
        return False
    initials = source == "name" and len(parts) > 1 and piece.isupper()  # U.S.
    return initials or any(p.lower() not in STOP_WORDS and (len(p) > 1 or p.isdigit()) for p in parts)


def trim_stop_words(text: str, start: int, end: int) -> tuple[int, int]:
    """Without leading articles and without leading and trailing stop words, blanks and commas."""
    pieces = [(start + m.start(), start + m.end()) for m in re.finditer(r"\S+", text[start:end])]
    while pieces and text[slice(*pieces[0])].lower().strip(",") in STOP_WORDS:
        pieces.pop(0)
    while pieces and text[slice(*pieces[-1])].lower().strip(",") in STOP_WORDS:
        pieces.pop()
    if not pieces:
        return start, start
    left, right = pieces[0][0], pieces[-1][1]
    return left, left + len(text[left:right].rstrip(",;: "))


def _trim_name(text: str, start: int, end: int) -> tuple[int, int]:
    """A capitalised run as a name: sentence openers cut off, a nationality widened to the thing it
    describes."""
    opens = start == 0 or re.search(r"[.!?:\n][\"')\]”’]*\s*$", text[:start]) is not None
    first = True
    while end > start:
        match = re.match(r"[\w’'&.-]+", text[start:end])
        if match is None:
            return start, start
        word = match.group()
        single = start + match.end() >= end
        dropped = word.lower() in STOP_WORDS or word.lower() in ARTICLES
        # A lone capital at the start of a sentence is mostly an ordinary word; a name would show again in
        # the text.
        if opens and first and single:
            later = re.search(rf"(?<![.!?]\s)(?<!^)\b{re.escape(word)}\b", text[end:])
            following = re.match(r"\s[a-z]+(?:ed|s)\b", text[end:])
            plain = word.lower().endswith(("s", "ing", "ly", "ion", "ity", "ed", "ment", "ness", "ers"))
            dropped = dropped or (later is None and (plain or following is None))
        if not dropped:
            break
        start += match.end()
        start += len(text[start:end]) - len(text[start:end].lstrip())
        first = False
    if text[start:end].endswith(("'s", "’s")):
        end -= 2
    end = start + len(text[start:end].rstrip(".,'’&-")) if not re.search(r"\b[A-Z]\.$", text[start:end]) else end
    if end > start and " " not in text[start:end] and text[start:end].lower().endswith(ADJECTIVE_END):
        noun = re.match(r"\s[a-z][a-z-]{2,}\b", text[end:])
        if noun is not None and noun.group().strip() not in STOP_WORDS:
            end += noun.end()
    return start, end
