"""Assembles a `Document` block by block, so that the offsets are exact by construction."""

import hashlib
import re
import unicodedata
from pathlib import PurePosixPath

from atomlora.corpora.dates import DateOrigin, stated_date
from atomlora.corpora.documents import Block, BlockKind, Document, PageSpan


def digest(data: bytes) -> str:
    """sha256 of `data` in hex."""
    return hashlib.sha256(data).hexdigest()


def title_from_source(source: str) -> str:
    """A title for a document that names none: the file's name in words."""
    return PurePosixPath(source).stem.replace("_", " ").replace("-", " ").strip()


_INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]")  # soft hyphens and the like
_LIGATURES = {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}


def plain_letters(text: str) -> str:
    """`text` as people type it: accents composed, no ligatures, nothing invisible within words."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).translate(_LIGATURES)


def one_line(text: str) -> str:
    """`text` with every run of white space as one blank."""
    return " ".join(text.split())


class HeadingPath:
    """The headings that stand above the present position."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, str]] = []

    def enter(self, level: int, text: str) -> None:
        """Go under a heading of `level` (1 is the highest); it closes its equals and all below."""
        while self._stack and self._stack[-1][0] >= level:
            self._stack.pop()
        self._stack.append((level, text))

    def above(self, title: str = "") -> tuple[str, ...]:
        """The headings from the outermost on, without one that only repeats `title`."""
        return tuple(text for _, text in self._stack if text and text != title)


class DocumentBuilder:
    """Collects blocks; each `add` appends the block's text and returns nothing to be kept in step with."""

    def __init__(self, source: str, data: bytes, media_type: str, labels: tuple[str, ...] = ()) -> None:
        self.title = ""
        self.date = ""
        self.date_origin: DateOrigin = "document"
        self._source, self._sha256, self._media_type, self._labels = source, digest(data), media_type, labels
        self._parts: list[str] = []
        self._length = 0
        self._path = HeadingPath()
        self._pending: list[tuple[Block, tuple[str, ...]]] = []
        self._pages: list[PageSpan] = []
        self._page_start = 0

    def heading(self, level: int, text: str) -> None:
        """A heading; the first one of level 1 is the title unless the document named one before."""
        text = one_line(plain_letters(text))
        if not text:
            return
        if level == 1 and not self.title:
            self.title = text
        self._path.enter(level, text)
        self.add("heading", text, depth=level)

    def add(
        self,
        kind: BlockKind,
        text: str,
        *,
        depth: int = 0,
        number: int | None = None,
        caption: str = "",
        statement: str = "",
    ) -> None:
        """Append a block; text that is blank is dropped."""
        text = plain_letters(text)
        text = text.strip("\n") if kind == "code" else text.strip()
        if not text.strip():
            return
        if self._parts:
            close = kind in ("list_item", "step", "table_row", "definition") and self._pending[-1][0].kind in (
                kind,
                "table_header",
            )
            self._append("\n" if close else "\n\n")
        start = self._length
        self._append(text)
        block = Block(
            kind=kind,
            start=start,
            end=self._length,
            depth=depth,
            number=number,
            caption=caption,
            statement=statement,
        )
        self._pending.append((block, self._path.above()))

    def table(self, rows: list[list[str]], has_header: bool, caption: str = "") -> None:
        """A table of cells; with a header each row says "Header: value; Header: value"."""
        rows = [[one_line(cell) for cell in row] for row in rows]
        # A blank header row, as Markdown needs one before any table, is none
        header = rows[0] if has_header and any(rows[0]) and any(map(any, rows[1:])) else None
        if header is not None:
            self.add("table_header", " | ".join(header))
            rows = rows[1:]
        rows = [row for row in rows if any(row)]
        for row in rows:
            statement = plain_letters(row_statement(header, row))
            self.add("table_row", " | ".join(row), caption=one_line(caption), statement=statement)

    def end_page(self, number: int) -> None:
        """What was added since the last call lies on page `number`."""
        self._pages.append(PageSpan(number=number, start=self._page_start, end=self._length))
        self._page_start = self._length

    def build(self) -> Document:
        """The document; the title falls back to the file's name."""
        title = self.title or title_from_source(self._source)
        date = stated_date(self.date) if self.date else None
        blocks = tuple(
            block.model_copy(update={"headings": tuple(text for text in path if text != title)})
            for block, path in self._pending
        )
        return Document(
            source=self._source,
            sha256=self._sha256,
            text="".join(self._parts),
            title=title,
            media_type=self._media_type,
            labels=self._labels,
            blocks=blocks,
            pages=tuple(self._pages),
            date=date,
            date_origin=self.date_origin if date else None,
        )

    def _append(self, text: str) -> None:
        self._parts.append(text)
        self._length += len(text)


def row_statement(header: list[str] | None, row: list[str]) -> str:
    """One table row in words; empty cells are left out, surplus cells keep their bare value."""
    if header is None and len(row) == 2 and all(row):
        return ": ".join(row)
    if header is None:
        return "; ".join(cell for cell in row if cell)
    names = header + [""] * (len(row) - len(header))
    return "; ".join(f"{name}: {cell}" if name else cell for name, cell in zip(names, row, strict=False) if cell)
