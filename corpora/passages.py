"""The record of a passage, which the splitter hands on."""

from pydantic import BaseModel, ConfigDict, Field

from atomlora.corpora.dates import DateOrigin
from atomlora.corpora.types import AtomType


class Passage(BaseModel):
    """One atom's worth of text.

    source, source_sha256, labels, date, date_origin: the document's. start, end: `document.text[start:end]` is the
    exact span, in characters. page: of the span's start, for PDF. text: self-contained, of 1-3 sentences as a rule.
    title, headings: of where it stood. kind: its type.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    source_sha256: str
    start: int = Field(ge=0)
    end: int = Field(ge=0)
    page: int | None = None
    text: str
    title: str = ""
    headings: tuple[str, ...] = ()
    kind: AtomType = "statement"
    labels: tuple[str, ...] = ()
    date: str | None = None
    date_origin: DateOrigin | None = None
