"""Documents as the readers hand them on: extracted text, and blocks with exact character offsets into it."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from atomlora.corpora.dates import DateOrigin

BlockKind = Literal["heading", "paragraph", "list_item", "step", "table_header", "table_row", "definition", "code"]


class PageSpan(BaseModel):
    """Page `number` (from 1) covers the characters `start` to `end` of the document's text."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int = Field(ge=1)
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class Block(BaseModel):
    """One piece of layout: `text[start:end]` of its document.

    headings: the headings above it, outermost first, without the document's title.
    depth: nesting of a list item, 0 for the outermost list; level of a heading, from 1.
    number: the step's number in a numbered list.
    caption: a table's caption.
    statement: what the block says in words of its own where the raw characters do not say it (a table row as
        "Header: value; Header: value", a docstring with the qualified name); empty for prose.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: BlockKind
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    headings: tuple[str, ...] = ()
    depth: int = 0
    number: int | None = None
    caption: str = ""
    statement: str = ""


class Document(BaseModel):
    """One document as text.

    source: path relative to the compiled root in POSIX form, `FILE#id` for a line of jsonl.
    sha256: hex digest of the file's bytes (of the line's bytes for jsonl).
    text: the extracted text that all offsets count in, in characters.
    date, date_origin: when it is from (ISO 8601), and how that is known; see `atomlora.corpora.dates`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    sha256: str
    text: str
    title: str = ""
    media_type: str = "text/plain"
    labels: tuple[str, ...] = ()
    blocks: tuple[Block, ...] = ()
    pages: tuple[PageSpan, ...] = ()
    date: str | None = None
    date_origin: DateOrigin | None = None

    @model_validator(mode="after")
    def _blocks_lie_in_order(self) -> Self:
        position = 0
        for block in self.blocks:
            if not position <= block.start <= block.end <= len(self.text):
                raise ValueError(f"{self.source}: block {block.start}:{block.end} is out of order or out of the text")
            position = block.end
        return self


class SkippedFile(BaseModel):
    """A file (or line of jsonl) that was left out, and why, with a remedy."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    reason: str
