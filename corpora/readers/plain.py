"""Plain text, kept as it is, so that offsets count in the file itself; layout is told from the lines."""

import re
from collections.abc import Iterator

from atomlora.corpora.builder import HeadingPath, digest, one_line, title_from_source
from atomlora.corpora.documents import Block, BlockKind, Document
from atomlora.corpora.encoding import decode
from atomlora.corpora.layout import is_record

_UNDERLINE = re.compile(r"^\s*([=\-~*^#])\1{2,}\s*$")
_BULLET = re.compile(r"^(\s*)(?:[-*•‣◦·–+])\s+(?=\S)")
_NUMBERED = re.compile(r"^(\s*)(?:step\s+)?(\d{1,3})[.)]\s+(?=\S)", re.IGNORECASE)
_RULE = re.compile(r"^[\W_]*$")
_SECTION_NUMBER = re.compile(r"^(\d+(?:\.\d+)*)\.?\s+(?=[A-Z])")
_HEADING_WORDS = 10


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document, its blocks told from blank lines, bullets, numbers and headings."""
    yield parse(decode(data), source, data)


def parse(text: str, source: str, data: bytes, title: str = "", labels: tuple[str, ...] = ()) -> Document:
    """The document of a plain `text`."""
    lines = _lines(text)
    path, blocks, found_title, index = HeadingPath(), list[Block](), title, 0
    while index < len(lines):
        start, end = lines[index]
        line = text[start:end]
        if not line.strip() or (_RULE.match(line) and not any(c.isalnum() for c in line)):
            index += 1
            continue
        level, used = _heading_level(text, lines, index)
        if level:
            heading = one_line(line)
            if not found_title and not blocks:
                found_title = heading
            path.enter(level, heading)
            blocks.append(_block("heading", text, start, end, path.above(found_title), depth=level))
            index += used
            continue
        last = index
        bullet, number = _BULLET.match(line), _NUMBERED.match(line)
        while last + 1 < len(lines) and _continues(text, lines, last + 1, bool(bullet or number)):
            last += 1
        finish = lines[last][1]
        if number:
            blocks.append(
                _block(
                    "step",
                    text,
                    start + number.end(),
                    finish,
                    path.above(found_title),
                    number=int(number.group(2)),
                )
            )
        elif bullet:
            depth = len(bullet.group(1).expandtabs(4)) // 2
            blocks.append(_block("list_item", text, start + bullet.end(), finish, path.above(found_title), depth=depth))
        else:
            blocks.append(_block("paragraph", text, start, finish, path.above(found_title)))
        index = last + 1
    return Document(
        source=source,
        sha256=digest(data),
        text=text,
        title=found_title or title_from_source(source),
        labels=labels,
        blocks=tuple(_single_numbers_are_paragraphs(blocks, text)),
    )


def _lines(text: str) -> list[tuple[int, int]]:
    spans, start = [], 0
    for line in text.split("\n"):
        spans.append((start, start + len(line)))
        start += len(line) + 1
    return spans


def _block(
    kind: BlockKind,
    text: str,
    start: int,
    end: int,
    headings: tuple[str, ...],
    depth: int = 0,
    number: int | None = None,
) -> Block:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return Block(kind=kind, start=start, end=end, headings=headings, depth=depth, number=number)


def _blank(text: str, lines: list[tuple[int, int]], index: int) -> bool:
    return not 0 <= index < len(lines) or not text[slice(*lines[index])].strip()


def _heading_level(text: str, lines: list[tuple[int, int]], index: int) -> tuple[int, int]:
    """`(level, lines used)`; level 0 where the line is none. A heading is underlined, or a short line alone
    without a full stop that is numbered, in capitals, the first line, or stands in front of a paragraph."""
    line = text[slice(*lines[index])].strip()
    if not line[0].isalnum() or len(line.split()) > _HEADING_WORDS or not any(c.isalpha() for c in line):
        return 0, 0
    if index + 1 < len(lines):
        underline = text[slice(*lines[index + 1])].strip()
        if _UNDERLINE.match(underline) and len(underline) >= min(len(line), 3):
            return (1 if underline[0] in "=#*" else 2), 2
    alone = _blank(text, lines, index - 1) and _blank(text, lines, index + 1)
    if not alone or line[-1] in ".!?:;," or line[0].islower() or is_record(line):
        return 0, 0
    followed = any(not _blank(text, lines, later) for later in range(index + 1, min(index + 4, len(lines))))
    if not followed:
        return 0, 0
    numbered = _SECTION_NUMBER.match(line)
    if numbered:
        return 1 + numbered.group(1).count(".") + 1, 1
    if line.isupper():
        return 2, 1
    first = not text[: lines[index][0]].strip()
    return (1 if first else 3), 1


def _continues(text: str, lines: list[tuple[int, int]], index: int, in_item: bool) -> bool:
    line = text[slice(*lines[index])]
    if (
        not line.strip()
        or _BULLET.match(line)
        or (_NUMBERED.match(line) and (in_item or _starts_list(text, lines, index)))
    ):
        return False
    if index + 1 < len(lines) and _UNDERLINE.match(text[slice(*lines[index + 1])]):
        return False
    return not _UNDERLINE.match(line)


def _starts_list(text: str, lines: list[tuple[int, int]], index: int) -> bool:
    """A wrapped line may begin with "3. " by chance; a list begins at 1, below a line that ends a
    sentence."""
    number = _NUMBERED.match(text[slice(*lines[index])])
    previous = text[slice(*lines[index - 1])].rstrip()
    return bool(number and int(number.group(2)) == 1 and previous.endswith((":", ".", "!", "?")))


def _single_numbers_are_paragraphs(blocks: list[Block], text: str) -> Iterator[Block]:
    """One numbered line alone ("1914. The war began.") is prose, not a procedure."""
    for index, block in enumerate(blocks):
        beside = blocks[max(0, index - 1) : index] + blocks[index + 1 : index + 2]
        if block.kind == "step" and not any(other.kind == "step" for other in beside):
            start = text.rfind("\n", 0, block.start) + 1
            yield _block("paragraph", text, start, block.end, block.headings)
        else:
            yield block
