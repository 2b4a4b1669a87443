"""Where German text does not end a sentence although its full stop looks like it: ordinals and abbreviations.

nupunkt's model is English. German writes ordinals with a full stop ("am 31. Dezember", "der 1. Vorsitzende") and
capitalises every noun, so that a capital behind a full stop says little.
"""

import re

# Words that most texts of either language have and the other has not.
_GERMAN = re.compile(
    r"\b(?:der|die|das|dem|den|ein|eine[mnrs]?|und|oder|ist|sind|wird|werden|kann|muss|gilt|von|vom|zu[mr]?|mit|für|"
    r"auf|aus|bei|nach|im|am|nicht|sich|auch|bis|über|unter|durch|sowie|seit|ab|wurden?|diese[mnrs]?|inkl|exkl|zzgl|bzw|ggf|"
    r"mwst)\b",
    re.IGNORECASE,
)
_ENGLISH = re.compile(
    r"\b(?:the|of|and|to|is|are|were|for|on|by|with|at|from|this|that|he|she|you|we|be|as|or|not|has|had)\b",
    re.IGNORECASE,
)
# Months whose names English spells otherwise, and their numbers
MONTHS = {"Januar": 1, "Februar": 2, "März": 3, "Mai": 5, "Juni": 6, "Juli": 7, "Oktober": 10, "Dezember": 12}
_GERMAN_ONLY = re.compile(rf"(?:{'|'.join((*MONTHS, 'Jänner'))})\b")
_MONTH = re.compile(rf"{_GERMAN_ONLY.pattern}|(?:April|August|September|November)\b")
_DAY = re.compile(r"(?<![\d.,])(?:[12]?\d|3[01])\.$")
_COUNTED = re.compile(
    r"\b(?:[Dd](?:e[rnms]|ie|as)|[Ii]m|[Aa]m|[Bb]eim|[Vv]om|[Zz]u[mr]|[Ee]ine[mnrs]?|[Jj]ede[mnrs]?)"
    r"\s+\d{1,2}\.$"
)
# Capitalised behind an ordinal, these begin a sentence: "… zum 15. Danach gilt …".
_OPENING = re.compile(
    r"(?:D(?:er|ie|as|em|en|es|ann|anach|abei|afür|aher|amit|avon|azu|ort|iese[mnrs]?|ies|urch)|E[rs]|Sie|Wir|Ich|Man|"
    r"Ein(?:e[mnrs]?)?|Kein(?:e[mnrs]?)?|I[mn]|A[bmnu]s?|Auf|Bei|Bis|Für|Mit|Nach|Seit|Über|Unter|Vo[mnr]|Zu[mr]?|"
    r"Alle[mnrs]?|Jede[mnrs]?|Wenn|Wer|Was|Wie|Wo|Hier|Sonst|Bitte|Siehe|Auch|Nur|Und|Oder|[A-Z][a-z]+tags)\b"
)
# Followed by what they shorten the name or number of; and those that only numbers follow.
_SHORT = re.compile(
    r"(?<!\w)(?:[Ii]nkl|[Ee]xkl|[Zz]zgl|[Aa]bzgl|[Bb]zgl|[Bb]zw|[Ee]vtl|[Gg]gf|[Gg]em|[Ll]t|[Vv]gl|[Ss]og|Fa|Abt|Hr|Fr)\.$"
)
_NUMBERED = re.compile(r"(?<!\w)(?:Str|Anl|Art|Nr|Abs|Ziff|Kap|Abb|Tab|Bd|S)\.$")
_LOWER = re.compile(r"[a-zäöüß]{2,}\b(?!\(|\.\w)")  # a word, no identifier
_REACH = 40  # characters: longer than any ordinal or abbreviation with the word before it


def is_german(text: str) -> bool:
    """Whether two or more German function words stand in a text, and more of them than English ones."""
    german, english = ({word.lower() for word in kind.findall(text)} for kind in (_GERMAN, _ENGLISH))
    return len(german) > max(1, len(english))


def runs_on(before: str, rest: str, german: bool) -> bool:
    """Whether `rest`, behind a supposed end of a sentence in `before`, goes on with that sentence. `german` is what
    `is_german` says of the whole text; a date with a month as only German spells it needs no such text around it."""
    end = before[-_REACH:]
    if not end.endswith("."):
        return False
    if _DAY.search(end) and (_MONTH if german else _GERMAN_ONLY).match(rest):
        return True
    if not german:
        return False
    if _LOWER.match(rest) or _SHORT.search(end):
        return True
    if _NUMBERED.search(end):
        return rest[0].isdigit()
    return _COUNTED.search(end) is not None and _OPENING.match(rest) is None
