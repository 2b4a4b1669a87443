"""Which reader reads which file.

Each reader is a module with `read(data: bytes, source: str) -> Iterator[Document | SkippedFile]`, imported
when the first file of its kind turns up; it raises `InputError` for a file it cannot use.
"""

from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import PurePosixPath
from typing import cast

from atomlora.corpora.documents import Document, SkippedFile

Reader = Callable[[bytes, str], Iterator[Document | SkippedFile]]

_CODE_SUFFIXES = (
    "js mjs jsx ts tsx java kt scala go rs c h cc cpp hpp cs m rb php swift sh bash lua r jl pl sql toml yaml yml"
)
READERS: dict[str, str] = {
    "": "plain",
    ".txt": "plain",
    ".text": "plain",
    ".log": "plain",
    ".md": "markdown",
    ".markdown": "markdown",
    ".rst": "restructured",
    ".html": "html",
    ".htm": "html",
    ".xhtml": "html",
    ".pdf": "pdf",
    ".docx": "docx",
    ".py": "python_code",
    ".jsonl": "jsonl",
    **{f".{suffix}": "other_code" for suffix in _CODE_SUFFIXES.split()},
}
FORMATS = "txt, md, rst, html, pdf, docx, jsonl and source code"


def reader_for(source: str) -> Reader | None:
    """The reader for a file of this name, or None where its format is not read."""
    name = READERS.get(PurePosixPath(source).suffix.lower())
    if name is None:
        return None
    return cast(Reader, import_module(f"atomlora.corpora.readers.{name}").read)
