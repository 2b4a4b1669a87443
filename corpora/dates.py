"""When a document is from: what it says of itself, else a date in its title or file name, else what its file
carries.

Dates are ISO 8601 in whatever precision is known: `2015`, `2024-03`, `2024-03-12`, `2024-03-12T09:30:00Z`.
"""

import contextlib
import re
from datetime import UTC, date, datetime
from pathlib import PurePosixPath
from typing import Literal

from atomlora.corpora.german import MONTHS

DateOrigin = Literal["document", "name", "properties", "file"]
"""`document`: front matter, docinfo, a meta tag, or the `date` of a line of jsonl; `name`: title or file name;
`properties`: what a word processor or PDF writer recorded; `file`: the file's time of modification."""

_MONTH_LIST = "january february march april may june july august september october november december"
_MONTHS = _MONTH_LIST.split()
_MONTH = "|".join(f"{name[:3]}(?:{name[3:]})?" if len(name) > 3 else name for name in _MONTHS) + "|sept"
_GERMAN = {name.lower(): number for name, number in MONTHS.items()} | {"okt": 10, "dez": 12}
_MONTH = "|".join((*sorted(_GERMAN, key=len, reverse=True), _MONTH))
_ISO = re.compile(r"(?<!\d)(\d{4})(?:[-/](\d{1,2})(?:[-/](\d{1,2}))?)?(?!\d)")
_DAY_FIRST = re.compile(rf"(?<!\d)(\d{{1,2}})(?:st|nd|rd|th)?\.?\s+(?:of\s+)?({_MONTH})\.?,?\s+(\d{{4}})(?!\d)", re.I)
_MONTH_FIRST = re.compile(rf"\b({_MONTH})\.?\s+(?:(\d{{1,2}})(?:st|nd|rd|th)?,?\s+)?(\d{{4}})(?!\d)", re.I)
_DOTTED = re.compile(r"(?<![\d.])(\d{1,2})\.(\d{1,2})\.(\d{4})(?!\d)")  # day first, as dots are written
# With the groups of year, month and day
_WRITTEN = ((_DAY_FIRST, (3, 2, 1)), (_DOTTED, (3, 2, 1)), (_MONTH_FIRST, (3, 1, 2)))
_COMPACT = re.compile(r"(?<!\d)((?:19|20)\d\d)(\d\d)(\d\d)(?!\d)")
_IN_NAME = re.compile(r"(?<!\d)((?:19|20)\d\d)(?:[-_.](\d\d)(?:[-_.](\d\d))?)?(?!\d)")


def stated_date(text: str) -> str | None:
    """The date that `text` (a field's value, a title) begins with or holds; None where there is none that exists."""
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        moment = None
    if moment is not None and len(text.strip()) > len("2024-03-12"):
        with contextlib.suppress(OverflowError):  # the first or last day there is, in another time zone
            return moment_date(moment)
    for pattern, order in (*_WRITTEN, (_ISO, (1, 2, 3))):
        if found := pattern.search(text):
            return _joined(*(found.group(place) for place in order))
    return None


def named_date(title: str, source: str) -> str | None:
    """The date in a title ("Luggage Policy (2015)") or else in a file name ("2024-03-board.docx"), of this century or
    the last; ids of jsonl lines are no names."""
    stem = "" if "#" in source else PurePosixPath(source).stem
    for text in (title, stem):
        for pattern, order in (*_WRITTEN, (_COMPACT, (1, 2, 3))):
            if found := pattern.search(text):
                return _joined(*(found.group(place) for place in order))
        if found := _IN_NAME.search(text):
            return _joined(*found.groups()) or found.group(1)  # "Budget 2024-25"
    return None


def moment_date(moment: datetime) -> str:
    """A point in time, to the second, in UTC (a naive one is taken to be)."""
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return aware.replace(microsecond=0).isoformat().replace("+00:00", "Z")


def _joined(year: str, month: str | None, day: str | None) -> str | None:
    number = None if month is None else int(month) if month.isdigit() else _month_number(month)
    try:
        date(int(year), number or 1, int(day or 1))
    except ValueError:
        return None
    parts = [f"{int(year):04}", *([f"{number:02}"] if number else []), *([f"{int(day):02}"] if number and day else [])]
    return "-".join(parts)


def _month_number(name: str) -> int:
    if (number := _GERMAN.get(name.lower())) is not None:
        return number
    return next(n for n, month in enumerate(_MONTHS, start=1) if month.startswith(name.lower()[:3]))
