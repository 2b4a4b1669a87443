"""Word files by python-docx: headings by style, lists by style or numbering, tables in their places."""

import io
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import docx
from docx.oxml.ns import qn
from docx.table import Table
from docx.text.paragraph import Paragraph

from atomlora.corpora.builder import DocumentBuilder
from atomlora.corpora.dates import moment_date
from atomlora.corpora.documents import Document
from atomlora.errors import InputError

_TEMPLATE_DATE = datetime(2013, 12, 23, 23, 15, tzinfo=UTC)  # of the file that python-docx begins from
_OPENED = {qn(f"w:{name}") for name in ("sdt", "sdtContent", "ins", "moveTo", "customXml")}
_HOLDERS = _OPENED | {qn(f"w:{name}") for name in ("r", "hyperlink", "smartTag", "fldSimple")}
_SIGNS = {qn("w:tab"): "\t", qn("w:br"): "\n", qn("w:cr"): "\n", qn("w:noBreakHyphen"): "-"}
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
    if document.core_properties.modified not in (None, _TEMPLATE_DATE):
        builder.date, builder.date_origin = moment_date(document.core_properties.modified), "properties"
    counters: dict[tuple[str, int], int] = {}
    for block in _blocks(document.element.body, document):
        if isinstance(block, Table):
            _add_table(builder, block)
        else:
            _add_paragraph(builder, block, counters)
    yield builder.build()


def _add_paragraph(builder: DocumentBuilder, paragraph: Paragraph, counters: dict[tuple[str, int], int]) -> None:
    text = _text(paragraph._p)
    style = _style(paragraph)
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


def _blocks(parent: Any, owner: Any) -> Iterator[Paragraph | Table]:
    """Paragraphs and tables in their order, those inside of content controls and tracked insertions too."""
    for child in parent.iterchildren():
        if child.tag == qn("w:p"):
            yield Paragraph(child, owner)
        elif child.tag == qn("w:tbl"):
            yield Table(child, owner)
        elif child.tag in _OPENED:
            yield from _blocks(child, owner)


def _text(node: Any) -> str:
    """What Word shows of a paragraph: fields' results, content controls and insertions, but no deletions."""
    parts = []
    for child in node.iterchildren():
        if child.tag == qn("w:t"):
            parts.append(child.text or "")
        elif child.tag in _SIGNS:
            parts.append(_SIGNS[child.tag])
        elif child.tag in _HOLDERS:
            parts.append(_text(child))
    return "".join(parts)


def _cell_text(cell: Any) -> str:
    return "\n".join(_text(node) for node in cell.iter(qn("w:p")))


def _style(paragraph: Paragraph) -> str:
    """The style's name, or that of the built-in heading or list style that a template's own is based on."""
    style = first = paragraph.style
    while style is not None:
        if re.match(r"Title$|Heading|List", style.name or ""):
            return str(style.name)
        style = style.base_style
    return (first.name or "") if first is not None else ""


def _is_numbered(paragraph: Paragraph) -> bool:
    """Direct list formatting; whether by bullets or numbers stands in another part and matters too little."""
    properties = paragraph._p.pPr
    return properties is not None and properties.find(qn("w:numPr")) is not None


def _add_table(builder: DocumentBuilder, table: Table) -> None:
    rows = []
    for row in table.rows:
        cells, previous = [], None
        for cell in row.cells:  # a merged cell comes once per column it covers: the rest stay empty, in their places
            cells.append("" if cell._tc is previous else _cell_text(cell._tc))
            previous = cell._tc
        rows.append(cells)
    builder.table(rows, has_header=_has_header(table, rows))


def _has_header(table: Table, rows: list[list[str]]) -> bool:
    """Word marks a header only where it repeats on each page. Else a first row without gaps counts as one; but with two
    columns, which are as often names and values, only where the table's style sets it off, or where it is in bold and
    the row below is not."""
    if len(rows) < 2 or not all(cell.strip() for cell in rows[0]):
        return False
    if len(rows[0]) != 2 or table._tbl.tr_lst[0].find(f"{qn('w:trPr')}/{qn('w:tblHeader')}") is not None:
        return True
    look = table._tbl.tblPr.find(qn("w:tblLook"))
    styled = table.style is not None and table.style.name not in ("Normal Table", "Table Grid")
    if styled and look is not None and look.get(qn("w:firstRow")) == "1":
        return True
    return _bold(table.rows[0].cells[1]) and not _bold(table.rows[1].cells[1])


def _bold(cell: Any) -> bool:
    return all(run.bold for paragraph in cell.paragraphs for run in paragraph.runs if run.text.strip())
