"""Markdown by markdown-it-py (CommonMark with tables); the extracted text is the words without the markup."""

import html
import re
from collections.abc import Iterator

from markdown_it import MarkdownIt
from markdown_it.token import Token

from atomlora.corpora.builder import DocumentBuilder
from atomlora.corpora.dates import stated_date
from atomlora.corpora.documents import BlockKind, Document
from atomlora.corpora.encoding import decode

_FRONT_MATTER = re.compile(r"\A---\n(.*?)\n(?:---|\.\.\.)\n", re.DOTALL)
_FRONT_TITLE = re.compile(r"^title:\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
_FRONT_DATE = re.compile(
    r"^(?:updated|last_?mod(?:ified)?|modified|effective|date):\s*[\"']?(.+?)[\"']?\s*$", re.M | re.I
)
_FRONT_LABELS = re.compile(r"^(?:labels|tags):[ \t]*(.*(?:\n[ \t]*-[ \t].*)*)", re.M | re.I)
_FRONT_LABEL_END = re.compile(r"\n[ \t]*-[ \t]|,")
_BREAK = re.compile(r"<br\s*/?>", re.I)
_TAG = re.compile(r"<!--.*?-->|<[^>]*>", re.DOTALL)


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file."""
    yield parse(decode(data), source, data)


def parse(text: str, source: str, data: bytes, title: str = "", labels: tuple[str, ...] = ()) -> Document:
    """The document of a Markdown `text`; front matter gives nothing but title, date and labels (or tags)."""
    front = _FRONT_MATTER.match(text)
    own = _front_labels(front.group(1)) if front else ()
    builder = DocumentBuilder(source, data, "text/markdown", tuple(dict.fromkeys((*labels, *own))))
    builder.title = title
    if front:
        named = _FRONT_TITLE.search(front.group(1))
        builder.title = title or (named.group(1) if named else "")
        dated = _FRONT_DATE.findall(front.group(1))
        builder.date = max((date for one in dated if (date := stated_date(one))), default="")
        text = text[front.end() :]
    _add_tokens(builder, MarkdownIt("commonmark", {"maxNesting": 60}).enable("table").parse(text))
    return builder.build()


def _front_labels(front: str) -> tuple[str, ...]:
    """The labels of a front matter: `[a, b]`, `a, b`, or a list of one a line."""
    parts = [part for found in _FRONT_LABELS.findall(front) for part in _FRONT_LABEL_END.split(found)]
    return tuple(label for part in parts if (label := part.strip("- \t[]\"'")))


def _add_tokens(builder: DocumentBuilder, tokens: list[Token]) -> None:
    lists: list[tuple[BlockKind, int]] = []  # the open lists: their kind and the number of the next item
    number: int | None = None
    first_in_item = False
    rows: list[list[str]] = []
    for index, token in enumerate(tokens):
        if token.type == "heading_open":
            builder.heading(int(token.tag[1]), inline_text(tokens[index + 1]))
        elif token.type in ("bullet_list_open", "ordered_list_open"):
            ordered = token.type == "ordered_list_open"
            lists.append(("step" if ordered else "list_item", int(token.attrGet("start") or 1)))
        elif token.type in ("bullet_list_close", "ordered_list_close"):
            lists.pop()
        elif token.type == "list_item_open":
            kind, number = lists[-1]
            lists[-1] = (kind, number + 1)
            first_in_item = True
        elif token.type == "paragraph_open":
            content = inline_text(tokens[index + 1])
            if lists:
                kind = lists[-1][0] if first_in_item else "list_item"
                depth = len(lists) - 1 + (0 if first_in_item else 1)
                builder.add(kind, content, depth=depth, number=number if kind == "step" else None)
                first_in_item = False
            else:
                builder.add("paragraph", content)
        elif token.type in ("fence", "code_block"):
            builder.add("code", token.content)
        elif token.type == "html_block":
            builder.add("paragraph", html.unescape(_TAG.sub(" ", token.content)))
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append(inline_text(tokens[index + 1]))
        elif token.type == "table_close":
            builder.table(rows, has_header=True)
            rows = []


def inline_text(token: Token) -> str:
    """The words of an inline token; line breaks stay, since a break can separate records."""
    parts = []
    for child in token.children or []:
        if child.type in ("text", "code_inline"):
            parts.append(child.content)
        elif child.type in ("softbreak", "hardbreak") or _BREAK.fullmatch(child.content):
            parts.append("\n")
        elif child.type == "image":
            parts.append(child.content)
    return "".join(parts)
