"""Documents that nobody should have written: each becomes text or a reason, never an exception."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atomlora.corpora import Document, SkippedFile, read_corpus, split_document
from atomlora.corpora import reading as module

GOOD = "The harbour of Vennet opened in 1822."
SUFFIXES = (".txt", ".md", ".rst", ".html", ".pdf", ".docx", ".py", ".c", ".jsonl")
SEEDS = {
    ".txt": b"The harbour opened in 1822.\n\n- one\n- two\n",
    ".md": b"# T\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n> q\n\n```py\nx\n```\n",
    ".rst": b"T\n=\n\n.. image:: x\n\n+---+\n| a |\n+---+\n",
    ".html": b"<html><body><h1>T</h1><table><tr><td>a<ul><li>b</table><p>x &amp; y",
    ".pdf": b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj 2 0 obj<</Kids[]>>endobj trailer<</Root 1 0 R>>",
    ".docx": b"PK\x03\x04\x14\0\0\0\0\0[Content_Types].xml",
    ".py": b'class A:\n    """Doc."""\n    def f(self, x: int = 3) -> str: ...\n',
    ".c": b"/* Opens. */\nint f(int a) { return a; }\n",
    ".jsonl": b'{"id": "1", "text": "The harbour opened in 1822.", "labels": ["a"]}\n{"id": 2}\n',
}


def outcome(folder: Path, name: str, data: bytes) -> list[Document | SkippedFile]:
    """What becomes of one file beside a good one."""
    (folder / "good.txt").write_text(GOOD)
    (folder / name).write_bytes(data)
    found = [one for one in read_corpus([folder]) if one.source != "good.txt"]
    for one in found:
        if isinstance(one, Document):
            for passage in split_document(one):
                assert one.text[passage.start : passage.end].strip()
        else:
            assert one.reason
    return found


@pytest.mark.parametrize(
    ("name", "data", "reason"),
    [
        ("empty.md", b"", "is empty"),
        ("nul.txt", b"a\0b" * 50, "NUL"),
        ("binary.md", bytes(range(1, 32)) * 50, "binary"),
        ("utf8.txt", b"\xc3\x28\xff\xfe\x00" * 30, ""),
        ("utf16.txt", b"\xff\xfeT", "utf-16"),
        ("bad.pdf", b"%PDF-1.7 nothing", "PDF"),
        ("bad.docx", b"PK\x03\x04 nothing", ""),
    ],
)
def test_each_has_its_reason(tmp_path: Path, name: str, data: bytes, reason: str) -> None:
    (found,) = outcome(tmp_path, name, data)
    assert isinstance(found, SkippedFile)
    assert reason in found.reason


def test_a_hundred_megabytes_on_one_line_are_passed_over_unread(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(GOOD)
    with (tmp_path / "huge.txt").open("wb") as file:
        file.truncate(100_000_000)
    (found,) = [one for one in read_corpus([tmp_path]) if isinstance(one, SkippedFile)]
    assert "too large (100,000,000 bytes" in found.reason


@pytest.mark.parametrize("suffix", [".txt", ".md", ".html", ".py"])
def test_one_long_line(tmp_path: Path, suffix: str) -> None:
    for number, unit in enumerate(("word ", "x", "A b. ")):
        folder = tmp_path / str(number)
        folder.mkdir()
        outcome(folder, f"line{suffix}", (unit * (200_000 // len(unit))).encode())


@pytest.mark.parametrize("tag", ["div", "ul><li", "table><tr><td", "blockquote", "b"])
def test_deep_html(tmp_path: Path, tag: str) -> None:
    (found,) = outcome(tmp_path, "deep.html", f"<{tag}>".encode() * 20_000 + b"The harbour opened in 1822.")
    assert isinstance(found, Document | SkippedFile)


class Growing:
    """Stands in for a file to which somebody appends whenever it is read."""

    def __init__(self, file: IO[bytes], path: Path) -> None:
        self._file, self._path = file, path

    def __enter__(self) -> Growing:
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def fileno(self) -> int:
        return self._file.fileno()

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        os.write(os.open(self._path, os.O_WRONLY | os.O_APPEND), b" And more was written.")
        return data


@pytest.mark.parametrize("times", [1, 99])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    (tmp_path / "good.txt").write_text(GOOD)
    log = tmp_path / "log.txt"
    log.write_text("The bell of Torrisk rang in 1822.")
    real, left = Path.open, times

    def opening(self: Path, *arguments: Any, **keywords: Any) -> Any:
        nonlocal left
        file = real(self, *arguments, **keywords)
        if self.name != "log.txt" or left == 0:
            return file
        left -= 1
        return Growing(file, self)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", opening)
        (found,) = [one for one in read_corpus([tmp_path]) if one.source == "log.txt"]
    if times == 1:
        assert isinstance(found, Document)
        assert found.text == log.read_text()
    else:
        assert isinstance(found, SkippedFile)
        assert "changes while it is read" in found.reason


@given(
    suffix=st.sampled_from(SUFFIXES),
    cut=st.integers(0, 200),
    junk=st.binary(max_size=60),
    again=st.integers(1, 40),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_bytes_raise(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, cut: int, junk: bytes, again: int
) -> None:
    seed = SEEDS[suffix]
    at = cut % (len(seed) + 1)
    data = seed[:at] + junk * again + seed[at:]
    path = tmp_path_factory.mktemp("any") / f"file{suffix}"
    path.write_bytes(data)
    for found in module._read_file(path, path.name, module.MAX_BYTES):
        if isinstance(found, Document):
            split_document(found)
