"""reStructuredText by docutils; includes and raw directives are off, so nothing but the file is read."""

from collections.abc import Iterator

from docutils import nodes
from docutils.core import publish_doctree
from docutils.utils import SystemMessage

from atomlora.corpora.builder import DocumentBuilder, one_line
from atomlora.corpora.documents import BlockKind, Document
from atomlora.corpora.encoding import decode
from atomlora.errors import InputError

_SETTINGS = {
    "file_insertion_enabled": False,
    "raw_enabled": False,
    "report_level": 5,
    "halt_level": 5,
    "_disable_config": True,
    "doctitle_xform": True,
    "line_length_limit": 20_000_000,
    "input_encoding": "unicode",
}
_LEFT_OUT = (
    nodes.comment,
    nodes.system_message,
    nodes.substitution_definition,
    nodes.target,
    nodes.raw,
    nodes.docinfo,
)


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file; unknown directives and roles are passed over."""
    try:
        tree = publish_doctree(decode(data), settings_overrides=_SETTINGS)
    except (SystemMessage, RecursionError) as error:
        raise InputError(f"cannot be parsed as reStructuredText ({error}): mend it or rename it to .txt") from error
    builder = DocumentBuilder(source, data, "text/x-rst")
    builder.title = one_line(tree.get("title", ""))
    builder.date = next((node.astext() for node in tree.findall(nodes.date)), "")
    _add(builder, tree, level=1)
    yield builder.build()


def _add(builder: DocumentBuilder, node: nodes.Node, level: int, depth: int = -1) -> None:
    for child in node.children:
        if isinstance(child, _LEFT_OUT):
            continue
        if isinstance(child, nodes.section):
            _add(builder, child, level + 1)
        elif isinstance(child, nodes.title | nodes.subtitle):
            builder.heading(level, child.astext())
        elif isinstance(child, nodes.bullet_list | nodes.enumerated_list):
            _add_list(builder, child, level, depth + 1)
        elif isinstance(child, nodes.definition_list):
            for item in child.children:
                _add_definition(builder, item)
        elif isinstance(child, nodes.field_list):
            for field in child.children:
                builder.add("paragraph", f"{field.children[0].astext()}: {field.children[1].astext()}")
        elif isinstance(child, nodes.table):
            _add_table(builder, child)
        elif isinstance(child, nodes.literal_block | nodes.doctest_block):
            builder.add("code", child.astext())
        elif isinstance(child, nodes.TextElement):
            builder.add("paragraph" if depth < 0 else "list_item", child.astext(), depth=max(depth, 0))
        else:
            _add(builder, child, level, depth)


def _add_list(builder: DocumentBuilder, node: nodes.Element, level: int, depth: int) -> None:
    ordered = isinstance(node, nodes.enumerated_list)
    number = int(node.get("start", 1))
    for item in node.children:
        kind: BlockKind = "step" if ordered else "list_item"
        first, *rest = item.children or [nodes.paragraph()]
        if isinstance(first, nodes.TextElement):
            builder.add(kind, first.astext(), depth=depth, number=number if ordered else None)
        else:
            rest = list(item.children)
        holder = nodes.container()
        holder.children = rest
        _add(builder, holder, level, depth + (0 if not rest or isinstance(rest[0], nodes.Sequential) else 1))
        number += 1


def _add_definition(builder: DocumentBuilder, item: nodes.Node) -> None:
    term = " ".join(child.astext() for child in item.children if isinstance(child, nodes.term | nodes.classifier))
    for child in item.children:
        if isinstance(child, nodes.definition):
            for part in child.children:
                if not isinstance(part, _LEFT_OUT):
                    builder.add("definition", f"{term}: {part.astext()}")


def _add_table(builder: DocumentBuilder, table: nodes.table) -> None:
    caption = next((child.astext() for child in table.children if isinstance(child, nodes.title)), "")
    rows = [[cell.astext() for cell in row.children] for row in table.findall(nodes.row)]
    builder.table(rows, has_header=next(table.findall(nodes.thead), None) is not None, caption=caption)
