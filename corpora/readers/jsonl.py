"""jsonl corpora: one document a line, `{"id", "text", "title"?, "labels"?, "date"?}`; other keys are left alone."""

import json
import re
from collections.abc import Iterator

from atomlora.corpora.builder import title_from_source
from atomlora.corpora.dates import stated_date
from atomlora.corpora.documents import Document, SkippedFile
from atomlora.corpora.encoding import decode
from atomlora.corpora.readers import markdown, plain

_LINES = re.compile(r"\r\n?")  # JSON text may hold the other line breaks as they are
_MARKDOWN_HEADING = re.compile(r"^#{1,6} \S", re.MULTILINE)


def read(data: bytes, source: str) -> Iterator[Document | SkippedFile]:
    """A document per line, named `FILE#id`; a line that is no such record is skipped and named by its number.

    Text with Markdown headings is read as Markdown, any other as plain text.
    """
    seen: set[str] = set()
    for number, line in enumerate(decode(data, _LINES).split("\n"), start=1):
        if not line.strip():
            continue
        record = _record(line)
        if isinstance(record, str):
            yield SkippedFile(source=f"{source}#line-{number}", reason=f"line {number} {record}")
            continue
        identifier, text, title, labels, date = record
        name = f"{source}#{identifier}"
        if identifier in seen:
            yield SkippedFile(source=name, reason=f'line {number} repeats the "id" {identifier!r}: make ids unique')
            continue
        seen.add(identifier)
        if not text.strip():
            yield SkippedFile(source=name, reason=f'line {number} has an empty "text": fill it or drop the line')
            continue
        parse = markdown.parse if _MARKDOWN_HEADING.search(text) else plain.parse
        document = parse(text, name, line.encode("utf-8", "surrogatepass"), title=title, labels=labels)
        if not title and document.title == title_from_source(name):
            document = document.model_copy(update={"title": identifier})
        if date is not None:
            document = document.model_copy(update={"date": date, "date_origin": "document"})
        yield document


def _record(line: str) -> tuple[str, str, str, tuple[str, ...], str | None] | str:
    """The fields of a line, or what is wrong with it."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return f"is not valid JSON ({error}): write one JSON object per line"
    if not isinstance(record, dict) or not isinstance(record.get("text"), str):
        return 'has no "text" string: each line needs "id" and "text"'
    identifier = record.get("id")
    if isinstance(identifier, bool) or not isinstance(identifier, str | int) or not str(identifier).strip():
        return 'has no "id": give each line a unique "id"'
    labels = record.get("labels") or []
    if not isinstance(labels, list) or not all(isinstance(label, str) for label in labels):
        return 'has "labels" that are not a list of strings'
    text = record["text"]
    title = record.get("title") or ""
    if not isinstance(title, str):
        return 'has a "title" that is not a string'
    given = record.get("date")
    date = None if given in (None, "") else stated_date(given) if isinstance(given, str) else None
    if date is None and given not in (None, ""):
        return 'has a "date" that is no date: write it like "2024-03-12"'
    for value in (text, title, str(identifier), *labels):
        if "\0" in value or any("\ud800" <= character <= "\udfff" for character in value):
            return "contains NUL characters or lone surrogates: remove them"
    text = re.sub(r"\r\n?|[\u2028\u2029\x85]", "\n", text)
    return str(identifier), text, title.strip(), tuple(labels), date
