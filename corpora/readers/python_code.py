"""Python source: a passage per docstring, function, class and commented constant, with its qualified name."""

import ast
import io
import tokenize
import warnings
from collections.abc import Iterator
from pathlib import PurePosixPath

from atomlora.corpora.builder import digest, one_line
from atomlora.corpora.documents import Block, Document
from atomlora.corpora.encoding import decode
from atomlora.corpora.readers import other_code

_SOURCE_WORDS = 60
_Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def read(data: bytes, source: str) -> Iterator[Document]:
    """One document per file; a file that does not parse is read by its comments, as other languages are."""
    text = decode(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the files of others are no concern here
            tree = ast.parse(text)
        comments = _comments(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError, tokenize.TokenError):
        yield from other_code.read(data, source)
        return
    module = PurePosixPath(source.split("#")[0]).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
    blocks = list(_Blocks(text, comments).of_module(tree, module))
    blocks.sort(key=lambda block: (block.start, block.end))
    apart: list[Block] = []
    for block in blocks:
        if not apart or block.start >= apart[-1].end:
            apart.append(block)
    yield Document(
        source=source,
        sha256=digest(data),
        text=text,
        title=module,
        media_type="text/x-python",
        blocks=tuple(apart),
    )


def _comments(text: str) -> dict[int, str]:
    """Line number (from 1) to the comment on that line."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {t.start[0]: t.string.lstrip("#!: ").rstrip() for t in tokens if t.type == tokenize.COMMENT}


class _Blocks:
    def __init__(self, text: str, comments: dict[int, str]) -> None:
        self._text, self._comments = text, comments
        self._lines = text.splitlines(keepends=True) if "\f" not in text else io.StringIO(text).readlines()
        self._starts = [0]
        for line in self._lines:
            self._starts.append(self._starts[-1] + len(line))

    def of_module(self, tree: ast.Module, module: str) -> Iterator[Block]:
        yield from self._docstring(tree, f"module `{module}`", None)
        yield from self._body(tree.body, module, ())

    def _body(self, body: list[ast.stmt], owner: str, headings: tuple[str, ...]) -> Iterator[Block]:
        for node in body:
            if isinstance(node, _Definition):
                yield from self._definition(node, f"{owner}.{node.name}", headings)
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                yield from self._constant(node, owner, headings)

    def _definition(self, node: _Definition, name: str, headings: tuple[str, ...]) -> Iterator[Block]:
        is_class = isinstance(node, ast.ClassDef)
        arguments = "" if isinstance(node, ast.ClassDef) else f"({ast.unparse(node.args)})"
        returns = "" if isinstance(node, ast.ClassDef) or node.returns is None else f" -> {ast.unparse(node.returns)}"
        label = f"{'class' if is_class else 'function'} `{name}{arguments}{returns}`"
        if ast.get_docstring(node):
            yield from self._docstring(node, label, self._offset(node.lineno, node.col_offset), headings)
        else:
            start, end = self._offset(node.lineno, node.col_offset), self._end(node)
            if is_class:  # the members follow as blocks of their own
                end = self._offset(node.body[0].lineno, node.body[0].col_offset)
                decorators = getattr(node.body[0], "decorator_list", [])
                end = min([end, *(self._offset(d.lineno, d.col_offset) - 1 for d in decorators)])
            words = self._text[start:end].split()
            body = " ".join(words[:_SOURCE_WORDS]) + (" …" if len(words) > _SOURCE_WORDS else "")
            yield self._block(start, end, f"{label}: {body}", headings)
        if isinstance(node, ast.ClassDef):
            yield from self._body(node.body, name, (*headings, node.name))

    def _docstring(
        self,
        node: ast.Module | _Definition,
        label: str,
        start: int | None,
        headings: tuple[str, ...] = (),
    ) -> Iterator[Block]:
        words = ast.get_docstring(node)
        if not words:
            return
        first = node.body[0]
        begin = self._offset(first.lineno, first.col_offset) if start is None else start
        yield self._block(begin, self._end(first), f"{label}: {one_line(words)}", headings)

    def _constant(self, node: ast.Assign | ast.AnnAssign, owner: str, headings: tuple[str, ...]) -> Iterator[Block]:
        target = node.targets[0] if isinstance(node, ast.Assign) else node.target
        if not isinstance(target, ast.Name):
            return
        first = node.lineno
        above: list[str] = []
        while first - 1 in self._comments and self._lines[first - 2].lstrip().startswith("#"):
            first -= 1
            above.insert(0, self._comments[first])
        finish = node.end_lineno or node.lineno
        comment = one_line(" ".join([*above, self._comments.get(finish, "")]))
        value = one_line(self._text[self._offset(node.lineno, node.col_offset) : self._end(node)])
        if not comment and len(value) > 200:
            return  # a bare table of data says nothing that words could ask for
        start = self._starts[first - 1] if above else self._offset(node.lineno, node.col_offset)
        end = self._starts[finish] if finish in self._comments else self._end(node)
        statement = f"`{owner}.{value[:400]}`" + (f": {comment}" if comment else "")
        yield self._block(start, end, statement, headings)

    def _block(self, start: int, end: int, statement: str, headings: tuple[str, ...]) -> Block:
        while start < end and self._text[start].isspace():
            start += 1
        while end > start and self._text[end - 1].isspace():
            end -= 1
        return Block(kind="code", start=start, end=end, headings=headings, statement=statement)

    def _offset(self, line: int, column: int) -> int:
        """ast counts columns in UTF-8 bytes."""
        return self._starts[line - 1] + len(self._lines[line - 1].encode("utf-8")[:column].decode("utf-8"))

    def _end(self, node: ast.stmt) -> int:
        return self._offset(node.end_lineno or node.lineno, node.end_col_offset or 0)
