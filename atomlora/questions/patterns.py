"""Patterns of the deterministic answer candidates. Their order matters: an earlier one claims its characters.

A pattern's answer is its first group that matched. English month, day, unit and number words.
"""

from __future__ import annotations

import re

from atomlora.questions.words import MONTHS, NUMBER_WORDS, WEEKDAYS

# No "in" for inches: "412 in the hall" is by far the commoner reading.
_SYMBOLS = (
    "%|km/h|mph|km²|m²|km|cm|mm|nm|µm|m|ft|mi|ha|kg|mg|g|t|lb|oz|l|ml|L|V|kV|mV|A|mA|W|kW|MW|GW|kWh|MWh|"
    "Hz|kHz|MHz|GHz|B|kB|KB|MB|GB|TB|KiB|MiB|GiB|ms|s|µs|ns|°C|°F|°|K|Pa|kPa|bar|N|J|kJ|MJ"
)
_LENGTHS = (
    "(?:square |cubic )?(?:met(?:re|er)s?|kilomet(?:re|er)s?|centimet(?:re|er)s?|millimet(?:re|er)s?|"
    "miles?|feet|foot|inch(?:es)?|yards?)"
)
_PERIODS = "seconds?|minutes?|hours?|days?|weeks?|months?|years?|decades?|centur(?:y|ies)|nights?"
_UNIT_WORDS = (
    f"{_LENGTHS}|{_PERIODS}|percent|per cent|percentage points|bits?|bytes?|hectares?|acres?|tons?|tonnes?|"
    "kilograms?|grams?|pounds?|ounces?|lit(?:re|er)s?|gallons?|barrels?|volts?|watts?|kilowatts?|megawatts?|"
    "degrees(?: Celsius| Fahrenheit)?|knots"
)
_UNITS = f"{_SYMBOLS}|{_UNIT_WORDS}"
_CURRENCY = (
    "dollars?|euros?|pounds?|francs?|marks?|yen|yuan|rupees?|crowns?|kroner|kronor|pesos?|cents?|pence|"
    "USD|EUR|GBP|CHF|JPY"
)
_N = r"\d+(?:[,.\u202f]\d+)*"
_SCALE = r"(?:\s(?:hundred|thousand|million|billion|trillion))"
_DAY = r"\d{1,2}(?:st|nd|rd|th)?"
_CAPITAL = r"(?:Dr|Mr|Mrs|Ms|Prof|St|Lt|Col|Gen|Capt)\.|(?:[A-Z]\.)+|[A-ZÀ-ÖØ-ÞŁŚŻŽŠČ][\w’'&-]*"
_LINK = r"(?:of|de|del|da|di|du|la|le|van|von|der|den|al|el|y|the|for|&)"

_QUOTE = r"[\"“„]([^\"“”„\n]{2,80})[\"”]|(?<!\w)[‘']([^‘’'\n]{2,60})[’'](?!\w)"
_CODE = "|".join(
    (
        r"`([^`\n]{1,80})`",
        r"(?<![\w-])(--?[a-z][\w-]+(?:=\S+\w)?)",  # options
        r"\b([a-z]\w*(?:\.\w+)*\(\))",  # calls
        r"\b(\w+_\w+(?:\.\w+)*)",  # snake_case
        r"\b([a-z]+(?:[A-Z][a-z0-9]+)+)\b",  # camelCase
        r"(?<![\w/])((?:[\w.-]*/)+[\w-]+\.[a-z]{1,5})\b",  # paths
        r"\b([\w-]+\.(?:py|toml|json|yaml|yml|cfg|ini|md|txt|csv|sh|js|ts|go|rs|c|h|cpp|java|log))\b",
    )
)
_LINK_OR_MAIL = r"\b(https?://[^\s)>\]]*\w|[\w.+-]+@[\w-]+\.[\w.]*\w)"
_MONEY = rf"([$€£¥]\s?{_N}{_SCALE}?|\b(?:{_N}|(?:{NUMBER_WORDS})){_SCALE}?\s(?:{_CURRENCY})\b)"
_DATES = "|".join(
    (
        rf"{_DAY}(?:\sof)?\s(?:{MONTHS})(?:,?\s\d{{3,4}})?",
        rf"(?:{MONTHS})\s{_DAY}(?:,\s?\d{{4}})?(?!\d)",
        rf"(?:{MONTHS})(?:\sof)?\s\d{{4}}",
        r"\d{4}-\d\d(?:-\d\d)?",
        r"\d{1,2}[./]\d{1,2}[./]\d{2,4}",
        rf"(?:{WEEKDAYS})s?",
        r"\d{1,4}\s?(?:BCE?|AD|CE)\b",
        r"(?:1\d|20)\d\d\s?[–-]\s?\d{2,4}",
        r"(?:1\d|20)\d\ds?",
    )
)
_DATE = rf"\b({_DATES})\b(?!\s?(?:{_UNITS})\b)(?![,.:]\d)"
_MONTH = rf"(?<!^)(?<![.!?]\s)\b((?:{MONTHS}))\b"
_TIME = (
    r"\b(\d{1,2}[:.]\d\d(?::\d\d)?(?:\s?[ap]\.?m\b\.?)?(?:\s?o'clock)?|"
    r"\d{1,2}\s?(?:[ap]\.m\.|[ap]m\b|o['’]clock\b))"
)
_CENTURY = r"\b((?:\d{1,2}(?:st|nd|rd|th)|[a-z]+(?:th|first|second|third))[\s-]centur(?:y|ies))\b"
_QUANTITY = (
    rf"(?<![\w.])([-−±~]?{_N}(?:\s?(?:to|–|-|x|×)\s?{_N})?{_SCALE}?[\s-]?(?:{_UNITS})"
    rf"(?:\s(?:by|×|x)\s{_N}[\s-]?(?:{_UNITS}))?(?![\w]))"
)
_QUANTITY_IN_WORDS = (
    rf"\b((?:{NUMBER_WORDS}|one|half a)[\s-](?:(?:{NUMBER_WORDS})[\s-])*(?:and a half\s)?(?:{_UNIT_WORDS}))\b"
)
_NAME = rf"(?<![\w])((?:{_CAPITAL})(?:\s(?:{_LINK}\s){{0,2}}(?:{_CAPITAL}))*(?:\s\d{{1,3}}(?![\d,.%]\d|\w))?)"
_NUMBER = rf"(?<![\w.])((?:v|No\.\s)?{_N}(?:st|nd|rd|th)?{_SCALE}?)\b(?![\w-]*[a-z])"
_NUMBER_IN_WORDS = rf"\b((?:{NUMBER_WORDS})(?:[\s-](?:{NUMBER_WORDS}))*)\b"
_MODEL_NUMBER = r"\b((?=\w*\d)(?=\w*[A-Za-z])\w[\w-]*\w)\b"  # SR830

PATTERNS: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("quote", re.compile(_QUOTE)),
    ("code", re.compile(_CODE)),
    ("link", re.compile(_LINK_OR_MAIL)),
    ("money", re.compile(_MONEY)),
    ("date", re.compile(_DATE)),
    ("date", re.compile(_MONTH)),
    ("time", re.compile(_TIME)),
    ("century", re.compile(_CENTURY)),
    ("quantity", re.compile(_QUANTITY)),
    ("quantity", re.compile(_QUANTITY_IN_WORDS, re.IGNORECASE)),
    ("name", re.compile(_NAME)),
    ("number", re.compile(_NUMBER)),
    ("number", re.compile(_NUMBER_IN_WORDS, re.IGNORECASE)),
    ("code", re.compile(_MODEL_NUMBER)),
)
# What "X is/are ..." says of X, up to the next clause.
COMPLEMENT = re.compile(
    r"\b(?:is|are|was|were|means|called|named|known as|made of|consists of)\s+"
    r"((?:an?\s|the\s)?(?:[\w-]+\s){0,3}?[\w-]+)"
    r"(?=[,.;:)]|\s(?:which|that|who|whose|and|but|because|in|on|at|of|by|for|from|to|with|when|where|than|as|"
    r"since|until|after|before|near|between|during|every|if|while|inside|under|over)\b|$)"
)
# "was founded in", "is growing": there the word after "is" is a verb.
PARTICIPLE_END = (
    "ed",
    "ing",
    "en",
    "wn",
    "ilt",
    "ept",
    "old",
    "aid",
    "ost",
    "ound",
    "ought",
    "made",
    "set",
    "led",
)
# Nationalities describe what follows: "Portuguese slate" is the answer, "Portuguese" is half of it.
ADJECTIVE_END = (
    "ese",
    "ish",
    "ian",
    "ean",
    "rench",
    "utch",
    "reek",
    "erman",
    "oman",
    "orman",
    "wiss",
    "elsh",
)
