"""Word lists and word-level helpers shared by candidates and filters."""

from __future__ import annotations

import re

_STOP_WORDS = """
    a about above after again against all almost along already also although always am among an and
    another any are around as at away back be became because become been before began being below
    between both but by can cannot came come could did do does doing done down during each either
    else even ever every few first for from further get got had has have having he hence her here
    hers herself him himself his how however i if in inside instead into is it its itself just last
    later least less let like made make many may me might mine more most much must my near neither
    never no nor not nothing now of off often on once one only onto or other others our out outside
    over own per perhaps quite rather same second seem several shall she should since so some soon
    still such than that the their theirs them themselves then there therefore these they this those
    though through thus to today together too toward towards under unless until up upon us use used
    very was we well were what whatever when whenever where whether which while who whole whom whose
    why will with within without would yes yet you your
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
ARTICLES = frozenset(("a", "an", "the"))
MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
WEEKDAYS = "Monday|Tuesday|Wednesday|Thursday|Friday|Saturday|Sunday"
_SMALL = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|thirteen|fourteen|fifteen|sixteen|seventeen"
NUMBER_WORDS = (
    f"{_SMALL}|eighteen|nineteen|twenty|thirty|forty|fifty|sixty|seventy|eighty|ninety|hundred|thousand|million|billion"
)
_TIME_WORDS = re.compile(
    rf"\b(?:{MONTHS}|{WEEKDAYS}|spring|summer|autumn|fall|winter|morning|noon|evening|night|midnight|century|era|age|"
    r"decade|day|week|month|year|time|hour|war|before|after|when|during|dawn|dusk|season)s?\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    rf"\d|\b(?:one|{NUMBER_WORDS}|half|third|quarter|dozen|twice|once|both|none|no|zero)s?\b", re.IGNORECASE
)
_WORD = re.compile(r"\w+(?:[-'’.]\w+)*", re.UNICODE)


def words(text: str) -> list[str]:
    """Lower-case words; a possessive ending is cut off."""
    return [re.sub(r"['’]s?$", "", word) for word in _WORD.findall(text.lower())]


def content_words(text: str) -> list[str]:
    """The words that are no stop words, in their order."""
    return [word for word in words(text) if word not in STOP_WORDS]


def has_number(text: str) -> bool:
    """True if the text holds a digit or a number word."""
    return _NUMBER.search(text) is not None


def names_time(text: str) -> bool:
    """True if the text could answer "when": a digit, a month, a day, a season, a period."""
    return any(c.isdigit() for c in text) or _TIME_WORDS.search(text) is not None
