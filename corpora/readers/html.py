"""HTML by lxml (BSD; python-docx needs it anyway). Navigation, scripts and forms are left out."""

from collections.abc import Iterator
from html.parser import HTMLParser
from typing import Any

from lxml import etree

from atomlora.corpora.builder import DocumentBuilder, one_line
from atomlora.corpora.dates import stated_date
from atomlora.corpora.documents import BlockKind, Document
from atomlora.corpora.encoding import decode
from atomlora.errors import InputError


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LEFT_OUT = _words("script style noscript template nav button select svg iframe object head title del s strike")
_BREAKING = _words(
    "address article aside blockquote body center details dd div dl dt fieldset figcaption figure "
    "footer h1 h2 h3 h4 h5 h6 header hr html li main ol p pre section summary table tbody td "
    "tfoot th thead tr ul caption"
)
_DATE_TAGS = _words("date dcterms.date dcterms.modified article:published_time article:modified_time last-modified")
_SUBSTANCE = ("p", "h1", "h2", "h3", "h4", "h5", "h6", "li", "table", "article")
_HEADINGS = {f"h{level}": level for level in range(1, 7)}


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file."""
    text = decode(data)
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
    try:
        root = etree.fromstring(text.encode("utf-8"), parser)
    except etree.XMLSyntaxError as error:
        raise InputError(f"is not HTML that can be read ({error}): repair it or save it as text") from error
    if root is None:
        raise InputError("holds no HTML elements: save it as text if it is text")
    builder = DocumentBuilder(source, data, "text/html")
    heading = next((one_line(_plain(node)) for node in root.iter("h1")), "")
    named = next((one_line(_plain(node)) for node in root.iter("title")), "")
    builder.title = heading or named
    builder.date = _dated(root)
    # libxml2 gives up silently on what is nested deeper than some 2,000 elements.
    if any("depth" in entry.message.lower() for entry in parser.error_log):
        flat = _Flat()
        flat.feed(text)
        flat.close()
        for paragraph in flat.paragraphs():
            builder.add("paragraph", paragraph)
    else:
        _Walk(builder).run(root)
    yield builder.build()


def _dated(root: Any) -> str:
    """What the page's meta tags say of its date, the latest where there are several."""
    named = [
        ((node.get("name") or node.get("property") or "").lower(), node.get("content") or "")
        for node in root.iter("meta")
    ]
    return max((date for name, text in named if name in _DATE_TAGS and (date := stated_date(text))), default="")


class _Flat(HTMLParser):
    """The paragraphs alone, for pages nested too deeply to have a structure that means anything."""

    def __init__(self) -> None:
        super().__init__()
        self._parts: list[str] = []
        self._left_out = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _LEFT_OUT and not self._left_out:
            self._left_out = tag
        elif tag in _BREAKING or tag == "br":
            self._parts.append("\0")

    def handle_endtag(self, tag: str) -> None:
        if tag == self._left_out:
            self._left_out = ""
        elif tag in _BREAKING:
            self._parts.append("\0")

    def handle_data(self, data: str) -> None:
        if not self._left_out:
            self._parts.append(data)

    def paragraphs(self) -> list[str]:
        """The text between breaks, blank ones left out."""
        return [one_line(part) for part in "".join(self._parts).split("\0") if part.strip()]


class _Walk:
    """Goes through the tree without recursion (pages can be nested thousands deep) and adds blocks."""

    def __init__(self, builder: DocumentBuilder) -> None:
        self._builder = builder
        self._words: list[str] = []
        self._lists: list[tuple[BlockKind, int]] = []
        self._kind: BlockKind = "paragraph"
        self._number: int | None = None
        self._term = ""

    def run(self, root: Any) -> None:
        stack: list[tuple[Any, bool]] = [(root, False)]
        while stack:
            node, leaving = stack.pop()
            if leaving:
                self._leave(node)
                continue
            if self._enter(node):
                stack.append((node, True))
                stack.extend((child, False) for child in reversed(node))
            else:
                self._words.append(node.tail or "")
        self._flush()

    def _enter(self, node: Any) -> bool:
        """Begin an element; False where its inside is done with (then only its tail counts)."""
        tag = node.tag if isinstance(node.tag, str) else ""
        if not tag or tag in _LEFT_OUT or node.get("hidden") is not None or node.get("aria-hidden") == "true":
            return False
        if tag == "br":
            self._words.append("\n")
            return False
        if tag == "form" and next(node.iter(*_SUBSTANCE), None) is None:
            return False  # fields alone; some servers put a form around the whole page
        if tag == "sup" and (node.text or "")[:1].isdecimal() and "".join(self._words)[-1:].isdecimal():
            self._words.append("^")
        if tag in _HEADINGS or tag == "pre" or (tag == "table" and not _is_layout(node)):
            self._flush()
            if tag in _HEADINGS:
                self._builder.heading(_HEADINGS[tag], _plain(node))
            elif tag == "pre":
                self._builder.add("code", _plain(node))
            else:
                self._table(node)
            return False
        if tag in _BREAKING:
            self._flush()
        if tag in ("ul", "ol"):
            start = node.get("start") or "1"
            self._lists.append(("step" if tag == "ol" else "list_item", int(start) if start.isdecimal() else 1))
        elif tag == "li" and self._lists:
            self._kind, self._number = self._lists[-1]
            self._lists[-1] = (self._kind, self._number + 1)
        elif tag in ("dt", "dd"):
            self._kind = "definition"
        self._words.append(_collapse(node.text))
        return True

    def _leave(self, node: Any) -> None:
        tag = node.tag
        if tag == "dt":
            self._term = one_line("".join(self._words))
            self._words = []
        elif tag in _BREAKING:
            self._flush()
        if tag in ("ul", "ol") and self._lists:
            self._lists.pop()
        if tag in ("dd", "dl"):
            self._term = ""
        self._words.append(_collapse(node.tail))

    def _flush(self) -> None:
        text = "\n".join(one_line(line) for line in "".join(self._words).split("\n")).strip()
        kind, self._words = self._kind, []
        if not text:
            return
        self._kind = "list_item" if self._lists else "paragraph"  # what follows in the same item
        if kind == "definition":
            self._builder.add(kind, f"{self._term}: {text}" if self._term else text)
            self._kind = "definition" if self._term else "paragraph"
        elif self._lists:
            is_step = kind == "step"
            depth = len(self._lists) - 1
            self._builder.add(kind, text, depth=depth, number=self._number if is_step else None)
        else:
            self._builder.add("paragraph", text)

    def _table(self, table: Any) -> None:
        caption = next((_plain(node) for node in table.iter("caption")), "")
        rows: list[list[str]] = []
        has_header = False
        below: dict[int, tuple[int, str]] = {}  # column: rows that a cell still reaches down, and what it says
        for row in table.iter("tr"):
            cells = [cell for cell in row if cell.tag in ("td", "th")]
            if not rows and cells:
                has_header = all(cell.tag == "th" for cell in cells) or row.getparent().tag == "thead"
            said: list[str] = []
            for cell in [*cells, None]:
                while (held := below.get(len(said))) is not None:
                    below[len(said)] = (held[0] - 1, held[1])
                    if held[0] == 1:
                        del below[len(said)]
                    said.append(held[1])
                if cell is not None:
                    text = one_line(_plain(cell))
                    for place in range(_span(cell, "colspan")):
                        if (down := _span(cell, "rowspan") - 1) > 0:
                            below[len(said)] = (down, text if not place else "")
                        said.append(text if not place else "")
            rows.append(said)
        self._builder.table(rows, has_header, caption)


def _is_layout(table: Any) -> bool:
    """Whether a table only places what stands in it: no cell is a heading, and a cell holds a heading, several
    paragraphs or another table."""
    if next(table.iter("th", "caption"), None) is not None:
        return False
    return any(
        next(cell.iter("table", *_HEADINGS), None) is not None or len(list(cell.iter("p"))) > 1
        for cell in table.iter("td")
    )


def _span(cell: Any, name: str) -> int:
    """Columns or rows that a cell covers; 1 for what is no sensible number."""
    value = (cell.get(name) or "").strip()
    return min(int(value), 1000) if value.isdecimal() and int(value) else 1


def _collapse(text: str | None) -> str:
    return " ".join((text or "").split("\n"))


def _plain(node: Any) -> str:
    """All words inside `node`, scripts left out."""
    skipped = 0
    parts: list[str] = []
    for event, element in etree.iterwalk(node, events=("start", "end")):
        left_out = element.tag in _LEFT_OUT and element is not node
        if event == "start":
            skipped += left_out
            if not skipped:
                parts.append(element.text or "")
                if element.tag == "br":
                    parts.append("\n")
        else:
            skipped -= left_out
            if element is not node and not skipped:
                parts.append((" " if element.tag in _BREAKING else "") + (element.tail or ""))
    return "".join(parts)
