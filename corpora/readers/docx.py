"""Word files by python-docx: headings by style, lists by style or numbering, tables in their places."""

import io
import re
import zipfile
from collections.abc import Iterator

import docx
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph

from atomlora.corpora.builder import DocumentBuilder
from atomlora.corpora.dates import moment_date
from atomlora.corpora.documents import Document
from atomlora.errors import InputError

_LEVEL = re.compile(r"(\d+)$")
_UNPACKED_LIMIT_BYTES = 500_000_000
_OLD_WORD = b"\xd0\xcf\x11\xe0"


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file. A file that unpacks to more than 500 MB is refused before it is read."""
    if data.startswith(_OLD_WORD):
        raise InputError("is password-protected or in the old .doc format: save it as .docx without a password")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _UNPACKED_LIMIT_BYTES:
                raise InputError("unpacks to more than 500 MB: take out pictures or split it")
        document = docx.Document(io.BytesIO(data))
    except InputError:
        raise
    except Exception as error:  # python-docx lets errors of zipfile, lxml and its own through
        raise InputError(f"is not a valid .docx file ({error}): open it in Word and save it again") from error
    builder = DocumentBuilder(source, data, "application/vnd.openxmlformats-officedocument.wordprocessingml.document")
    builder.title = (document.core_properties.title or "").strip()
    if builder.title.lower() in ("word document", "document"):
        builder.title = ""
    if document.core_properties.modified is not None:
        builder.date, builder.date_origin = moment_date(document.core_properties.modified), "properties"
    counters: dict[tuple[str, int], int] = {}
    for block in document.iter_inner_content():
        if isinstance(block, Table):
            _add_table(builder, block)
        else:
            _add_paragraph(builder, block, counters)
    yield builder.build()


def _add_paragraph(builder: DocumentBuilder, paragraph: Paragraph, counters: dict[tuple[str, int], int]) -> None:
    text = paragraph.text
    style = (paragraph.style.name or "") if paragraph.style is not None else ""
    level = _LEVEL.search(style)
    if style == "Title":
        if not builder.title:
            builder.title = text.strip()
        builder.heading(1, text)
    elif style.startswith("Heading"):
        counters.clear()
        builder.heading(int(level.group(1)) if level else 1, text)
    elif style.startswith("List"):
        depth = int(level.group(1)) - 1 if level else 0
        if "Number" in style:
            counters[style, depth] = counters.get((style, depth), 0) + 1
            builder.add("step", text, depth=depth, number=counters[style, depth])
        else:
            builder.add("list_item", text, depth=depth)
    elif _is_numbered(paragraph):
        builder.add("list_item", text)
    else:
        if text.strip():
            counters.clear()
        builder.add("paragraph", text)


def _is_numbered(paragraph: Paragraph) -> bool:
    """Direct list formatting; whether by bullets or numbers stands in another part and matters too little."""
    properties = paragraph._p.pPr
    return properties is not None and properties.find(qn("w:numPr")) is not None


def _add_table(builder: DocumentBuilder, table: Table) -> None:
    rows = []
    for row in table.rows:
        cells, previous = [], None
        for cell in row.cells:  # a merged cell comes once per column it covers
            if cell._tc is not previous:
                cells.append(cell.text)
            previous = cell._tc
        rows.append(cells)
    builder.table(rows, has_header=len(rows) > 1 and all(cell.strip() for cell in rows[0]))
