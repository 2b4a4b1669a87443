"""Whether a question is asked in German, told apart from English ones that ask for yes or no.

Only a beginning that English questions cannot have is taken for German: "Was" begins "Was the hall rebuilt?" too, and
"Wen", "Wie" and "Wo" begin names.
"""

from __future__ import annotations

import re

_PREPOSITIONS = (
    "ab|an|auf|aus|bei|bis|durch|für|gegen|gemäß|in|innerhalb|laut|mit|nach|seit|über|um|unter|von|vor|während|wegen|zu"
)
_TOLD_AT_SIGHT = (
    r"[Ww](?:er|essen|elche[mnrs]?|ann|arum|eshalb|ieso|oher|ohin|or(?:an|auf|aus|in|über|um|unter)|"
    r"o(?:bei|durch|für|gegen|mit|nach|von|vor|zu))\b"
)
_BEFORE_LOWER_CASE = r"[Ww](?:em|en|ie|o)\b(?!\s+[A-ZÄÖÜ])"
_WAS = (
    r"[Ww]as\s(?:ist|sind|wird|werden|wurden?|kostet|kosten|muss|müssen|darf|dürfen|kann|können|soll|sollen|bedeutet|"
    r"heißt|gehört|enthält|macht|passiert|geschieht|"
    r"[a-zäöüß]+\s(?:der|die|das|dem|eine?[mnrs]?|sich|im|zu[mr]|bei|mit|für|nach|es|er|sie|wir|ich))\b"
)
_BEGINS = re.compile(rf"(?:(?i:{_PREPOSITIONS})\s){{0,2}}(?:{_TOLD_AT_SIGHT}|{_BEFORE_LOWER_CASE}|{_WAS})")
_ENGLISH = re.compile(r"\b(?:the|is|are|were|did|does|had)\b")


def asks_in_german(question: str) -> bool:
    """True if a question, or what there is of it, begins as German ones do ("Wann", "Mit welcher") and has no word
    that makes an English sentence."""
    text = question.strip()
    return _BEGINS.match(text) is not None and _ENGLISH.search(text) is None
