"""The values a sentence states (quantities, money, dates, times, numbers, names), made comparable.

They are found by the patterns of the question writer's candidates. Two values can be compared when they are of one
`kind` and `unit`; they agree when their `key`s do: "30 kg" and "thirty kilograms", "90 minutes" and "1.5 hours".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from atomlora.questions.candidates import supplement
from atomlora.questions.words import MONTHS

_UNITS: dict[str, tuple[str, float]] = {
    **dict.fromkeys(("kg", "kilogram", "kilo"), ("mass", 1.0)),
    **dict.fromkeys(("g", "gram"), ("mass", 1e-3)),
    **dict.fromkeys(("mg", "milligram"), ("mass", 1e-6)),
    **dict.fromkeys(("t", "tonne"), ("mass", 1e3)),
    **dict.fromkeys(("lb", "pound weight"), ("mass", 0.45359237)),
    **dict.fromkeys(("m", "metre", "meter"), ("length", 1.0)),
    **dict.fromkeys(("km", "kilometre", "kilometer"), ("length", 1e3)),
    **dict.fromkeys(("cm", "centimetre", "centimeter"), ("length", 1e-2)),
    **dict.fromkeys(("mm", "millimetre", "millimeter"), ("length", 1e-3)),
    **dict.fromkeys(("mi", "mile"), ("length", 1609.344)),
    **dict.fromkeys(("ft", "foot", "feet"), ("length", 0.3048)),
    **dict.fromkeys(("ms", "millisecond"), ("duration", 1e-3)),
    **dict.fromkeys(("s", "second"), ("duration", 1.0)),
    **dict.fromkeys(("min", "minute"), ("duration", 60.0)),
    **dict.fromkeys(("h", "hour"), ("duration", 3600.0)),
    "day": ("duration", 86400.0),
    "week": ("duration", 7 * 86400.0),
    "month": ("duration", 365.25 / 12 * 86400.0),
    "year": ("duration", 365.25 * 86400.0),
    **dict.fromkeys(("l", "litre", "liter"), ("volume", 1.0)),
    **dict.fromkeys(("ml", "millilitre", "milliliter"), ("volume", 1e-3)),
    **dict.fromkeys(("kw", "kilowatt"), ("power", 1e3)),
    **dict.fromkeys(("w", "watt"), ("power", 1.0)),
    **dict.fromkeys(("mw", "megawatt"), ("power", 1e6)),
    **dict.fromkeys(("%", "percent", "per cent"), ("share", 1.0)),
    **dict.fromkeys(("°c", "degrees celsius"), ("celsius", 1.0)),
    **dict.fromkeys(("$", "usd", "dollar"), ("dollar", 1.0)),
    **dict.fromkeys(("€", "eur", "euro"), ("euro", 1.0)),
    **dict.fromkeys(("£", "gbp", "pound"), ("pound", 1.0)),
}
_ONE_LIST = """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen
    eighteen nineteen
"""
_TEN_LIST = "twenty thirty forty fifty sixty seventy eighty ninety"
_WORD_NUMBERS = {word: n for n, word in enumerate(_ONE_LIST.split())}
_WORD_NUMBERS |= {word: 10 * n for n, word in enumerate(_TEN_LIST.split(), start=2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
# A comma is a decimal one before one or two digits ("1,5"), behind a lone zero ("0,125") and behind groups that points
# or thin blanks part ("1.850,00"); "1,850" is read as English writes it.
_DIGITS = re.compile(
    r"(?:^[-−])?(?:(?P<comma>\d{1,3}(?:[.\u202f]\d{3})+,\d+|\b0,\d+|(?<!,)\d+,\d{1,2}(?!,?\d))|"
    r"\d+(?:[,\u202f]\d{3})+(?:\.\d+)?|\d+(?:\.\d+)?)"
)
_MINUS_BEFORE = re.compile(r"(?<![\w%°)$€£])(?<![\d%°$€£]\s)[-−]$")  # and not the dash of "10%-20%" or "10 -20"
_MONTH_NUMBERS = {name.lower(): n for n, name in enumerate(MONTHS.split("|"), start=1)}
_NUMERIC_DATE = re.compile(r"(\d{1,2})([./])(\d{1,2})\2(\d{4}|\d\d)")
_CLOCK = re.compile(r"(\d{1,2})(?:[:.](\d\d))?\s?([ap])?", re.IGNORECASE)
_ONE = re.compile(r"\b(?<!no )one\b(?=\s[a-z]+)(?!\s(?:of|another|who|that|is|was|and|or)\b)", re.IGNORECASE)
_CAPITAL_BEFORE = re.compile(r"(?<=[a-z,;:]\s)[A-Z]\w+\s$")
_NOUN = re.compile(r"\s+(?:(?:working|business|calendar|full)\s+)?([a-z][\w'-]*)(?:\s+of\s+([a-z][\w'-]*))?")
_SAME_DURATION = 0.02  # a month is 30 days, and also 365/12
_PERIOD = frozenset(("date", "century"))
_NAMES = frozenset(("name", "quote", "code", "link"))


class Value(NamedTuple):
    """A value at `text[start:end]` of its sentence. `key` is a tuple of numbers (dates: year, month, day, None where
    not said; times: minutes), or of the lower-case words of a name. Dates that no calendar places ("Monday",
    "03/05/2024") have the unit "as written"."""

    kind: str
    unit: str
    key: tuple[float | str | None, ...]
    text: str
    start: int
    end: int

    @property
    def is_name(self) -> bool:
        return self.kind == "name"

    @property
    def is_date(self) -> bool:
        return self.kind == "date"

    def comparable(self, other: Value) -> bool:
        """Whether the two could answer one question, and it can be told whether they differ."""
        return (self.kind, self.unit) == (other.kind, other.unit)

    def agrees(self, other: Value) -> bool:
        """Whether two comparable values can both be true: what one leaves out of a date or a name does not count."""
        if self.is_date:
            return all(None in pair or pair[0] == pair[1] for pair in zip(self.key, other.key, strict=True))
        if self.is_name:
            return set(self.key) <= set(other.key) or set(other.key) <= set(self.key)
        if len(self.key) != len(other.key):
            return False
        tolerance = _SAME_DURATION if self.unit == "duration" else 1e-6
        return all(_close(one, two, tolerance) for one, two in zip(self.key, other.key, strict=True))


def values(text: str) -> list[Value]:
    """The values of one sentence in their order, without those that cannot be made comparable."""
    found = [value for one in supplement(text) if (value := _value(text, one.text, one.source, one.start))]
    taken = [(value.start, value.end) for value in found]
    for match in _ONE.finditer(text):  # which the candidates leave out: it is seldom asked for
        if not any(start < match.end() and match.start() < end for start, end in taken):
            found.append(_counted(text, (1.0,), *match.span()))
    return sorted(found, key=lambda value: value.start)


def _value(sentence: str, text: str, source: str, start: int) -> Value | None:
    end = start + len(text)
    if source in _NAMES:
        if before := _CAPITAL_BEFORE.search(sentence[:start]):  # a name that begins like a stop word: "My Giles"
            start = before.start()
            text = sentence[start:end]
        key = tuple(re.findall(r"\w+", text.lower()))
        return Value("name", "", key, text, start, end) if key else None
    if source in _PERIOD:
        date = _date(text)
        return Value("date", "as written" if isinstance(date[0], str) else "", date, text, start, end)
    if source == "time":
        match = _CLOCK.search(text)
        if match is None:
            return None
        hour, half = int(match.group(1)), match.group(3)
        if half:  # the twelfth hour comes first: 12:30 am is 0:30
            hour = hour % 12 + (12 if half.lower() == "p" else 0)
        return Value("time", "", (60.0 * hour + int(match.group(2) or 0),), text, start, end)
    if source not in ("money", "quantity", "number"):
        return None
    start += text.startswith(("-", "−"))  # which may be a dash; and the patterns leave that of money out
    if _MINUS_BEFORE.search(sentence[:start]):
        start -= 1
    text = sentence[start:end]
    numbers = tuple(_numbers(text))
    if not numbers:
        return None
    if source == "number":
        return _counted(sentence, numbers, start, end)
    unit, factor = _unit(text)
    return Value(source, unit, tuple(n * factor for n in numbers), text, start, end)


def _counted(sentence: str, numbers: tuple[float, ...], start: int, end: int) -> Value:
    """A number with what it counts: "kinds of cheese" is another unit than "kinds of bread", and "working days" are
    days."""
    found = _NOUN.match(sentence[end:])
    if found is None:
        return Value("number", "", numbers, sentence[start:end], start, end)
    noun, of = (word.removesuffix("s") if word else "" for word in found.groups())
    if noun in _UNITS:
        unit, factor = _UNITS[noun]
        end += found.end(1)
        return Value("quantity", unit, tuple(n * factor for n in numbers), sentence[start:end], start, end)
    return Value("number", f"{noun} {of}".strip(), numbers, sentence[start:end], start, end)


def _unit(text: str) -> tuple[str, float]:
    """The dimension (or the unit itself, where it is none of the table) and the factor to the table's unit."""
    bare = _DIGITS.sub(" ", text)
    words = [w for w in re.findall(r"[^\W\d]+|[%°$€£¥]", bare.lower()) if w not in _WORD_NUMBERS and w not in _SCALES]
    for word in reversed(words):
        for form in (word, word.removesuffix("s")):
            if form in _UNITS:
                return _UNITS[form]
    return " ".join(word.removesuffix("s") for word in words), 1.0


def _numbers(text: str) -> Iterator[float]:
    """Numbers in digits, each times a scale that follows ("1.7 million"); else one number in words."""
    found = False
    for match in _DIGITS.finditer(text):
        found = True
        after = re.match(r"\s(\w+)", text[match.end() :])
        digits = match.group().replace("−", "-")
        if match["comma"]:
            digits = digits.replace(".", "").replace(",", ".")
        yield float(re.sub(r"[,\u202f]", "", digits)) * _SCALES.get(after.group(1).lower() if after else "", 1)
    if found:
        return
    total = current = 0
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _WORD_NUMBERS:
            current += _WORD_NUMBERS[word]
            found = True
        elif word in _SCALES and found:
            current *= _SCALES[word]
            if _SCALES[word] > 100:
                total, current = total + current, 0
    if found:
        yield float(total + current)


def _date(text: str) -> tuple[float | str | None, ...]:
    """(year, month, day); a weekday, a century or a date of which day and month cannot be told apart is compared as it
    is written, in the first place."""
    if numeric := _NUMERIC_DATE.fullmatch(text):
        return _numeric_date(*numeric.groups())
    year = re.search(r"(?<!\d)\d{4}(?!\d)", text)
    iso = re.search(r"\d{4}-(\d\d)(?:-(\d\d))?", text)
    if iso and year:
        return float(year.group()), float(iso.group(1)), float(iso.group(2)) if iso.group(2) else None
    month = next((n for name, n in _MONTH_NUMBERS.items() if name in text.lower()), None)
    day = re.search(r"(?<!\d)(\d{1,2})(?:st|nd|rd|th)?(?!\d)", text)
    if (month is None and year is None) or (month is None and day is not None):
        return (text.lower().strip().removesuffix("s"), None, None)
    return (
        float(year.group()) if year else None,
        float(month) if month else None,
        float(day.group(1)) if day and month else None,
    )


def _numeric_date(first: str, separator: str, second: str, year: str) -> tuple[float | str | None, ...]:
    """With points the day comes first; with slashes either may, so that only a part beyond 12 tells."""
    one, two, full = int(first), int(second), int(year)
    if len(year) == 2:
        full += 1900 if full >= 69 else 2000  # as POSIX strptime reads %y
    low, high = sorted((one, two))
    if not 1 <= low <= 12 or high > 31 or (separator == "/" and low < high <= 12):
        return (f"{low}/{high}/{full}", None, None)
    day, month = (two, one) if two > 12 else (one, two)
    return float(full), float(month), float(day)


def _close(one: float | str | None, two: float | str | None, tolerance: float) -> bool:
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= tolerance * max(abs(one), abs(two))
    return one == two
