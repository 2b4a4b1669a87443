"""PDF by pypdf, with page numbers; headings and paragraphs are told from size, weight and place of lines."""

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pypdf
from pypdf.errors import DependencyError, PyPdfError

from atomlora.corpora.builder import DocumentBuilder, one_line
from atomlora.corpora.dates import moment_date
from atomlora.corpora.documents import Document
from atomlora.errors import InputError

_HEADING_WORDS = 14
_BULLET = re.compile(r"^[•‣◦▪●·–-]\s+")
_NUMBERED = re.compile(r"^(\d{1,3})[.)]\s+(?=\S)")
_DIGITS = re.compile(r"\d+")
_FURNITURE_PAGES = 3


@dataclass
class _Line:
    text: str
    y: float
    size: float
    bold: bool


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file. Raises InputError for password-protected, damaged and scanned files."""
    try:
        reader = pypdf.PdfReader(io.BytesIO(data))
        if reader.is_encrypted and not reader.decrypt(""):
            raise InputError("is password-protected: save a copy without the password")
        pages = [_lines(page) for page in reader.pages]
        title = one_line(str(reader.metadata.title or "")) if reader.metadata else ""
        dated = _dated(reader)
    except DependencyError as error:
        raise InputError("is encrypted: save a copy without encryption, or install `cryptography`") from error
    except InputError:
        raise
    except (PyPdfError, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise InputError(f"is not a valid PDF ({error}): export or print it to PDF again") from error
    furniture = _furniture(pages)
    pages = [[line for line in page if _shape(line.text) not in furniture] for page in pages]
    if not any(line.text.strip() for page in pages for line in page):
        raise InputError("holds no text, probably scanned pages: run text recognition (OCR) on it first")
    builder = DocumentBuilder(source, data, "application/pdf")
    body, levels = _sizes(pages)
    builder.title = _title(title, pages, levels)
    builder.date, builder.date_origin = dated, "properties"
    for number, page in enumerate(pages, start=1):
        for kind, lines in _paragraphs(page, body):
            text = _join(lines)
            step, bullet = _NUMBERED.match(text), _BULLET.match(text)
            if kind == "heading":
                builder.heading(levels.get(_rounded(lines[0].size), len(levels) + 1), text)
            elif step:
                builder.add("step", text[step.end() :], number=int(step.group(1)))
            elif bullet:
                builder.add("list_item", text[bullet.end() :])
            else:
                builder.add("paragraph", text)
        builder.end_page(number)
    yield builder.build()


def _dated(reader: pypdf.PdfReader) -> str:
    """When the file was last changed, or made, by what its writer recorded; "" where nothing usable is."""
    for name in ("modification_date", "creation_date"):
        try:
            moment = getattr(reader.metadata, name, None)
        except ValueError:  # pypdf reads it only now, and some programs write it wrongly
            continue
        if moment is not None:
            return moment_date(moment)
    return ""


def _lines(page: Any) -> list[_Line]:
    """The lines of a page; the visitor is called for each run of text with its place and font."""
    lines: list[_Line] = []
    parts: list[tuple[str, float, float, bool]] = []

    def finish() -> None:
        words = [part for part in parts if part[0].strip()]
        if words:
            size = max(words, key=lambda part: len(part[0]))[2]
            text = "".join(part[0] for part in parts)
            lines.append(_Line(one_line(text.replace("\0", "")), words[0][1], size, all(part[3] for part in words)))
        parts.clear()

    def visit(text: str, cm: list[float], tm: list[float], font: Any, size: float) -> None:
        y = tm[4] * cm[1] + tm[5] * cm[3] + cm[5]
        scale = abs(tm[3]) * abs(cm[3]) or abs(tm[0]) or 1.0
        name = str(font.get("/BaseFont", "")) if font else ""
        bold = any(word in name for word in ("Bold", "Black", "Heavy", "Semibold"))
        for index, piece in enumerate(text.split("\n")):
            if index:
                finish()
            if piece:
                parts.append((piece, y, float(size or 0) * scale, bold))

    page.extract_text(visitor_text=visit)
    finish()
    return [line for line in lines if line.text]


def _shape(text: str) -> str:
    """What a running head has in common on all pages; sentences must be alike to the digit."""
    return text if text.endswith((".", "!", "?")) else _DIGITS.sub("#", text)


def _furniture(pages: list[list[_Line]]) -> set[str]:
    """Running heads and feet: first or last lines alike, but for numbers, on three pages and half of all."""
    counts = Counter(shape for page in pages if page for shape in {_shape(page[0].text), _shape(page[-1].text)})
    least = max(_FURNITURE_PAGES, len(pages) / 2)
    return {shape for shape, count in counts.items() if count >= least}


def _rounded(size: float) -> float:
    return round(size * 2) / 2


def _sizes(pages: list[list[_Line]]) -> tuple[float, dict[float, int]]:
    """The size of the running text (of most characters), and heading levels by the larger sizes."""
    counts: Counter[float] = Counter()
    for page in pages:
        for line in page:
            counts[_rounded(line.size)] += len(line.text) * (1 if line.bold else 4)
    body = counts.most_common(1)[0][0]
    larger = sorted((size for size in counts if size > body), reverse=True)
    return body, {size: level for level, size in enumerate(larger, start=1)}


def _title(named: str, pages: list[list[_Line]], levels: dict[float, int]) -> str:
    first = next((line for page in pages for line in page), None)
    if first is not None and levels.get(_rounded(first.size)) == 1 and len(first.text.split()) <= _HEADING_WORDS:
        return ""  # the first heading will be the title
    # Many programs write the name of the source file there.
    return "" if re.search(r"\.\w{2,5}$|^untitled$|^microsoft word", named, re.IGNORECASE) else named


def _paragraphs(page: list[_Line], body: float) -> Iterator[tuple[str, list[_Line]]]:
    """Groups of lines: "heading" or "paragraph". A wider gap, another size, or a bullet begins a new one."""
    gaps = [upper.y - lower.y for upper, lower in pairwise(page) if upper.y > lower.y and upper.size == lower.size]
    usual = sorted(gaps)[len(gaps) // 2] if gaps else 0.0
    group: list[_Line] = []
    for line in page:
        if group:
            previous = group[-1]
            gap = previous.y - line.y
            apart = (usual and gap > 1.35 * usual) or abs(line.size - previous.size) > 0.4 or line.bold != previous.bold
            if apart or _BULLET.match(line.text) or _begins_step(line.text, group[0].text):
                yield _kind(group, body), group
                group = []
        group.append(line)
    if group:
        yield _kind(group, body), group


def _begins_step(text: str, group_start: str) -> bool:
    number, before = _NUMBERED.match(text), _NUMBERED.match(group_start)
    if number is None:
        return False
    return int(number.group(1)) == (int(before.group(1)) + 1 if before else 1)


def _kind(group: list[_Line], body: float) -> str:
    words = sum(len(line.text.split()) for line in group)
    ends = group[-1].text[-1] in ".!?;,"
    larger = group[0].size > body + 0.4
    bold = all(line.bold for line in group)
    letters = any(character.isalpha() for line in group for character in line.text)
    return "heading" if (larger or bold) and words <= _HEADING_WORDS and letters and not ends else "paragraph"


def _join(lines: list[_Line]) -> str:
    """The lines as one text; breaks stay (a break can separate records), a hyphen at a line's end goes."""
    text = "\n".join(line.text for line in lines)
    return re.sub(r"(?<=[^\W\d_])(?:-(?!\n(?:und|oder|bzw|sowie|bis|and|or|to)\b)|\u00ad)\n(?=[a-zß-öø-ÿ])", "", text)
