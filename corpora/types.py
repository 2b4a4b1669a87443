"""The types of knowledge atoms and the rule that tells them apart."""

import re
from typing import Literal, get_args

AtomType = Literal[
    "definition", "attribute", "event", "procedure", "quantity", "relation", "code", "table_row", "statement"
]
ATOM_TYPES: tuple[AtomType, ...] = get_args(AtomType)

# What the layout of the document already says is not guessed again from the words.
_STRUCTURAL: frozenset[str] = frozenset({"definition", "procedure", "code", "table_row"})

_KIN_AND_ROLES = (
    "brother|sister|mother|father|son|daughter|husband|wife|spouse|parent|child|children|friend|friends|uncle|aunt|"
    "cousin|nephew|niece|grandfather|grandmother|grandson|granddaughter|sibling|siblings|partner|colleague|"
    "successor|predecessor|member|subsidiary|capital|owner|head|chair|president|director|captain|author|founder"
)
_DEFINITION = re.compile(
    r"^(?:an?\s[\w-]+(?:\s[\w-]+){0,3}\sis\s(?:an?|the|any)\s"
    r"|[^.,;]{1,60}?\s(?:means|refers to|is defined as|are defined as|stands for|denotes|is short for)\s)",
    re.IGNORECASE,
)
_RELATION = re.compile(
    rf"\b(?:the\s)?(?:{_KIN_AND_ROLES})\s(?:of|to)\b"
    r"|\b(?:works? for|reports? to|belongs? to|married to|owned by|part of|employed by|related to|"
    r"responsible to|(?:is|are|was|were) (?:located|situated|based) (?:in|on|at))\b",
    re.IGNORECASE,
)
_ATTRIBUTE_OF = re.compile(r"^the\s[\w\s-]{1,40}?\sof\s[^.]{1,80}?\s(?:is|are|was|were)\s", re.IGNORECASE)
_DATE = re.compile(
    r"\b(?:1[0-9]{3}|20[0-9]{2})\b|\b\d{4}-\d{2}-\d{2}\b|\b\d{1,2}(?:st|nd|rd|th)?\s(?:of\s)?(?:January|February|March|"
    r"April|May|June|July|August|September|October|November|December)\b|\b(?:January|February|March|April|May|June|"
    r"July|August|September|October|November|December)\s\d{1,2}\b|\b\d{1,2}(?:st|nd|rd|th)\scentury\b",
    re.IGNORECASE,
)
_HAPPENED = re.compile(
    r"\b(?:\w{3,}ed|was|were|became|began|broke|built|came|died|fell|fought|gave|held|left|lost|made|met|moved|"
    r"ran|rose|sank|sold|took|went|won|wrote|born)\b",
    re.IGNORECASE,
)
_NUMBER = re.compile(
    r"(?:[$€£¥]\s?)?(?<![\w-])\d[\d,.]*(?:\s?%|\b)|\b(?:hundred|thousand|million|billion|dozen)s?\b", re.I
)
_ATTRIBUTE = re.compile(
    r"\b(?:is|are|was|were|has|have|had|contains?|consists? of|includes?|measures?|costs?)\b", re.IGNORECASE
)
_KEY_VALUE = re.compile(r"^[A-Z][\w ()/'-]{0,40}:\s\S")


def classify(text: str, kind_hint: str = "statement") -> AtomType:
    """The type of one self-contained passage.

    The rule, first match wins: the layout (`kind_hint` from a table, a numbered list, a glossary or code); a
    defining verb; a kinship, role or belonging (relation); "The N of X is" (attribute); a date with
    something that happened (event); a number (quantity); a verb of being or having, or "Key: value"
    (attribute); else a plain statement. It is replaced by handing another callable of this signature to
    `split_document`.
    """
    for name in ATOM_TYPES:
        if name == kind_hint and name in _STRUCTURAL:
            return name
    if _DEFINITION.search(text):
        return "definition"
    if _RELATION.search(text):
        return "relation"
    if _ATTRIBUTE_OF.search(text):
        return "attribute"
    if _DATE.search(text) and _HAPPENED.search(text):
        return "event"
    if _NUMBER.search(_DATE.sub(" ", text)):
        return "quantity"
    if _ATTRIBUTE.search(text) or _KEY_VALUE.search(text):
        return "attribute"
    return "statement"
