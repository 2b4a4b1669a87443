"""Source code in any language of Pygments: a passage per comment or docstring, with the line it explains."""

import re
from collections.abc import Iterator

from pygments.lexers import get_lexer_for_filename
from pygments.lexers.special import TextLexer
from pygments.token import Comment, String
from pygments.util import ClassNotFound

from atomlora.corpora.builder import digest, one_line
from atomlora.corpora.documents import Block, Document
from atomlora.corpora.encoding import decode

_MARKS = re.compile(r"^[ \t]*(?:/\*+!?|\*+/|///?!?|\*(?!\w)|#+!?|--+|;+|%+|<!--|\"\"\"|''')?[ \t]?", re.MULTILINE)
_CLOSING = re.compile(r"\s*(?:\*+/|-->|\"\"\"|''')\s*$")
_LETTERS = re.compile(r"[^\W\d_]{2,}")


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file; its blocks are the comments, each with the line of code next to it."""
    text = decode(data)
    try:
        lexer = get_lexer_for_filename(source.rsplit("/", 1)[-1], stripnl=False, ensurenl=False)
    except ClassNotFound:
        lexer = TextLexer(stripnl=False, ensurenl=False)
    spans = _comment_spans(lexer.get_tokens_unprocessed(text), text)
    blocks = [block for start, end in spans if (block := _block(text, start, end, source)) is not None]
    if not blocks and text.strip():
        start = len(text) - len(text.lstrip())
        blocks = [Block(kind="code", start=start, end=len(text.rstrip()))]
    yield Document(
        source=source,
        sha256=digest(data),
        text=text,
        title=source,
        media_type="text/x-source",
        blocks=tuple(blocks),
    )


def _comment_spans(tokens: Iterator[tuple[int, object, str]], text: str) -> list[tuple[int, int]]:
    """Comments and docstrings; those on lines that follow each other directly are one."""
    spans: list[tuple[int, int]] = []
    for start, kind, value in tokens:
        if (kind not in Comment and kind not in String.Doc) or kind in Comment.Preproc or kind in Comment.PreprocFile:
            continue
        end = start + len(value)
        if spans and re.fullmatch(r"[ \t]*\n?[ \t]*", text[spans[-1][1] : start]) and not _trails(text, spans[-1][0]):
            spans[-1] = (spans[-1][0], end)
        elif value.strip():
            spans.append((start, end))
    return spans


def _trails(text: str, start: int) -> bool:
    """Whether code stands in front of the comment on its line."""
    return bool(text[text.rfind("\n", 0, start) + 1 : start].strip())


def _block(text: str, start: int, end: int, source: str) -> Block | None:
    words = one_line(_CLOSING.sub("", _MARKS.sub("", text[start:end])))
    if not _LETTERS.search(words):
        return None
    if _trails(text, start):
        code = text[text.rfind("\n", 0, start) + 1 : start]
    else:
        code = next((line for line in text[end : end + 1_000].split("\n")[:4] if line.strip()), "")
    code = one_line(code)[:160].rstrip(" {")
    statement = f"{source}, `{code}`: {words}" if code else f"{source}: {words}"
    while end > start and text[end - 1].isspace():
        end -= 1
    return Block(kind="code", start=start, end=end, statement=statement)
