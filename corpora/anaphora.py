"""Whether a sentence stands alone, and which name stands for what it points back to.

A rule over words, not a parser: it prefers to join a sentence that could have stood alone (which costs a
longer atom) to leaving one whose "it" nobody can resolve (that costs a useless one).
"""

import re
from functools import lru_cache

from atomlora.corpora.settings import SplitSettings

_TOKEN = re.compile(r"[^\W_][\w'’.&/-]*|[^\w\s]")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_VERBS = _words(
    "is are was were has have had will would can could may might must shall should does did do "
    "became becomes remains remained came went took gave made got ran began won lost held led "
    "left sank rose fell grew"
)
_LINKS = _words("of for in on at from to with by between who which that whose where called named")
_NAME_JOINERS = _words("of the de da di van von der la le du and & for")
_DETERMINERS = _words("the a an")
_COUNTING = _words("one some most many several all each both")
_CLAUSE_TOKENS = 14


@lru_cache(maxsize=64)
def _sets(settings: SplitSettings) -> dict[str, frozenset[str]]:
    return {
        name: frozenset(getattr(settings, name))
        for name in ("anaphoric_words", "subject_pronouns", "anaphoric_nouns", "introducers", "subordinators")
    }


@lru_cache(maxsize=64)
def _connectives(settings: SplitSettings) -> tuple[str, ...]:
    return tuple(f"{phrase} " for phrase in settings.connectives)


def is_anaphoric(sentence: str, settings: SplitSettings) -> bool:
    """Whether the sentence's subject is named before it: an opening pronoun, demonstrative or connective, a
    pronoun or bare noun behind an introductory phrase, or a bare "The ship ..." without a name."""
    tokens = _TOKEN.findall(sentence[:400])
    while tokens and not tokens[0][0].isalnum():
        tokens.pop(0)
    if not tokens:
        return False
    words = _sets(settings)
    lower = [token.lower() for token in tokens]
    first = re.split(r"['’]", lower[0])[0]
    if first in words["anaphoric_words"]:
        return not (first in _COUNTING and _names(tokens[1:8]))  # "Most of Kestrin's ..." names its subject
    opening = " ".join(token for token in lower[:5] if token != ",")
    if f"{opening} ".startswith(_connectives(settings)):
        return True
    if first == "the" and _is_bare_noun(tokens, lower, words["anaphoric_nouns"]):
        return True
    return _pronoun_after_introduction(tokens, lower, words)


def _names(tokens: list[str]) -> bool:
    return any(token[0].isupper() or token[0].isdigit() for token in tokens)


def _is_bare_noun(tokens: list[str], lower: list[str], nouns: frozenset[str]) -> bool:
    for index, token in enumerate(lower[1:6], start=1):
        if tokens[index][0].isupper() or token[0].isdigit() or token in _LINKS or not token[0].isalnum():
            return False
        is_verb = token in _VERBS or (index > 1 and token.endswith("ed"))
        if is_verb and index > 1:
            return index <= 3 or lower[index - 1] in nouns
        if token in nouns and index + 1 < len(lower):
            following, spelt = lower[index + 1], tokens[index + 1]
            return not (spelt[0].isupper() or following in _LINKS or following in nouns)
    return False


def _pronoun_after_introduction(tokens: list[str], lower: list[str], words: dict[str, frozenset[str]]) -> bool:
    if lower[0] not in words["introducers"] and not lower[0][0].isdigit():
        # "Founded in 1903, it ...": a participle phrase without a name
        comma = lower.index(",") if "," in lower[:8] else 0
        if not comma or comma + 1 >= len(lower) or not lower[0].endswith(("ed", "ing", "ly", "t", "n")):
            return False
        return lower[comma + 1] in words["subject_pronouns"]
    for index in range(1, min(len(lower), _CLAUSE_TOKENS)):
        pronoun = lower[index] in words["subject_pronouns"] and tokens[index].islower()
        if pronoun or _is_bare_subject(tokens, lower, index, words["anaphoric_nouns"]):
            # "When Chopin was seven, he ..." names its subject itself
            return not (lower[0] in words["subordinators"] and _capitals(tokens[1:index]))
        if lower[index] in _VERBS and lower[0] not in words["subordinators"]:
            return False
    return False


def _is_bare_subject(tokens: list[str], lower: list[str], index: int, nouns: frozenset[str]) -> bool:
    """Whether ", the city became" stands at `index`: a class of things, named by no more than its noun."""
    if lower[index] != "the" or index + 2 >= len(lower) or lower[index - 1] not in (",", "year", "years"):
        return False
    following = tokens[index + 2]
    return lower[index + 1] in nouns and following.islower() and following not in _LINKS | nouns


def _capitals(tokens: list[str]) -> bool:
    return any(token[0].isupper() for token in tokens)


def leading_name(sentence: str) -> str:
    """The proper name that the sentence opens with, or "".

    "The Saxon Garden, covering ..." gives "The Saxon Garden".
    """
    matches = list(_TOKEN.finditer(sentence[:200]))
    if not matches:
        return ""
    index = 1 if matches[0].group().lower() in _DETERMINERS else 0
    last = -1
    while index < len(matches):
        token = matches[index].group()
        if token[0].isupper():
            last = index
        elif not (token in _NAME_JOINERS and last >= 0 and index + 1 < len(matches)):
            break
        index += 1
    if last < 0 or (last == 0 and not _is_clear_name(matches, sentence)):
        return ""
    return sentence[matches[0].start() : matches[last].end()].rstrip(".,")


def _is_clear_name(matches: list[re.Match[str]], sentence: str) -> bool:
    """One capitalised word at the start is a name when a verb follows ("Torrisk has ...")."""
    return len(matches) > 1 and matches[1].group() in _VERBS and sentence[0].isupper()
