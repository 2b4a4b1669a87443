"""Which files of a folder become documents, under which names, and what is said about the rest."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from atomlora.corpora import Document, SkippedFile, read_corpus, sample_names, sample_path, split_document
from atomlora.errors import InputError

TEXT = "The harbour of Vennet opened in 1822."


def names(found: list[Document | SkippedFile]) -> list[str]:
    return [one.source for one in found if isinstance(one, Document)]


def test_folders_are_walked_in_order_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b/2.txt", "b/1.md", "a.txt", ".hidden.txt", ".git/x.txt", "README"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEXT)
    found = list(read_corpus([tmp_path]))
    assert names(found) == ["README", "a.txt", "b/1.md", "b/2.txt"]
    assert names(list(read_corpus([tmp_path / "b" / "2.txt"]))) == ["2.txt"]
    assert found == list(read_corpus([tmp_path]))


def test_names_that_several_roots_hold_get_the_root_in_front(tmp_path: Path) -> None:
    for name in ("one/a.txt", "two/a.txt", "two/c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(TEXT + name)
    roots = [tmp_path / "one", tmp_path / "two", tmp_path / "two" / "c.txt"]
    assert names(list(read_corpus(roots))) == ["one/a.txt", "two/a.txt", "c.txt"]


def test_links(tmp_path: Path) -> None:
    inside, outside = tmp_path / "in", tmp_path / "out"
    inside.mkdir()
    outside.mkdir()
    (inside / "a.txt").write_text(TEXT)
    (outside / "secret.txt").write_text("The secret of Vennet is plum.")
    (inside / "loop").symlink_to(inside, target_is_directory=True)
    (inside / "self.txt").symlink_to(inside / "self.txt")
    (inside / "escape.txt").symlink_to(outside / "secret.txt")
    (inside / "escape").symlink_to(outside, target_is_directory=True)
    assert names(list(read_corpus([inside]))) == ["a.txt"]


def test_every_file_that_cannot_be_used_has_a_reason(tmp_path: Path) -> None:
    (tmp_path / "good.txt").write_text(TEXT)
    (tmp_path / "binary.txt").write_bytes(b"\0\1\2" * 100)
    (tmp_path / "empty.md").write_bytes(b" \n")
    (tmp_path / "marks.md").write_bytes(b"---\n***\n")
    (tmp_path / "photo.jpg").write_bytes(b"\xff\xd8\xff")
    (tmp_path / "bad.pdf").write_bytes(b"%PDF")
    (tmp_path / "large.txt").write_bytes(b"x" * 30_000_000)
    os.mkfifo(tmp_path / "pipe.txt")
    began = time.monotonic()
    found = list(read_corpus([tmp_path]))
    assert time.monotonic() - began < 5
    assert names(found) == ["good.txt"]
    reasons = {one.source: one.reason for one in found if isinstance(one, SkippedFile)}
    assert set(reasons) == {
        "binary.txt", "empty.md", "marks.md", "photo.jpg", "bad.pdf", "large.txt", "pipe.txt",
    }  # fmt: skip
    assert "too large" in reasons["large.txt"]
    assert "NUL" in reasons["binary.txt"]
    assert "format" in reasons["photo.jpg"]
    assert "empty" in reasons["empty.md"]


def test_a_folder_without_usable_documents_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("")
    with pytest.raises(InputError, match=r"holds no document.*pdf.*x\.txt: is empty") as caught:
        list(read_corpus([tmp_path]))
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_corpus([tmp_path / "nowhere"])
    with pytest.raises(InputError, match="at least one"):
        read_corpus([])


def test_samples_are_complete_and_readable() -> None:
    assert sample_names()
    for name in sample_names():
        documents = list(read_corpus([sample_path(name) / "documents"]))
        assert not [one for one in documents if isinstance(one, SkippedFile)]
        assert all(split_document(one) for one in documents if isinstance(one, Document))
    with pytest.raises(InputError, match=sample_names()[0]):
        sample_path("no such sample")


def test_import_is_light() -> None:
    code = (
        "import sys, atomlora.corpora; print([m for m in "
        "('torch','transformers','lxml','docx','pypdf') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
