"""Conflicts through a whole compile on the tiny base: found, reported, kept with the version, decided anew."""

import os

import pytest

from atomlora.compiler.compile import compile_corpus
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store

RUSHED = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:1"),
    train=TrainSettings(pool_atoms=1, max_steps=2, silence_rows=0),
    question_writer="none",
    max_questions=2,
    slots=4,
)
OLD = "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9:00 every day.\n"
NEW = "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 10:30 every day.\n"


@pytest.fixture
def compile_(tiny_world, tmp_path):
    """Write documents {name: (text, time of modification)} and compile them all."""

    def run(documents, settings=RUSHED):
        folder = tmp_path / "documents"
        folder.mkdir(exist_ok=True)
        for name, (text, seconds) in documents.items():
            (folder / name).write_text(text)
            os.utime(folder / name, (seconds, seconds))
        return compile_corpus([folder], tmp_path / "store", settings, base=tiny_world.base, device="cpu")

    return run


def test_conflicts_are_reported_and_kept_with_the_version(compile_, tmp_path):
    dated = "---\ndate: 2020-01-01\n---\n" + OLD, 1_700_000_000
    report = compile_({"a.md": dated, "b.md": (NEW, 1_600_000_000)})
    (found,) = report.conflicts
    assert (found.older.source, found.older.value) == ("a.md", "9:00")
    assert (found.newer.source, found.newer.value) == ("b.md", "10:30")
    assert found.decided_by == "the file's time of modification (2020-09-13T12:26:40Z)"
    with Store.open(tmp_path / "store") as store:
        assert store.conflicts() == report.conflicts
        assert store.manifest.settings["on_conflict"] == "warn"
        assert {found.older.atom, found.newer.atom} == {atom.id for atom in store.atoms()}
        assert store.verify().ok
        assert store.gc().removed == ()
        path = store._objects.path(store.manifest.conflicts)
    path.write_bytes(path.read_bytes().replace(b"10:30", b"11:30"))
    with Store.open(tmp_path / "store") as store:
        (problem,) = store.verify().problems
        assert "bytes have changed" in problem.reason


def test_files_of_one_minute_are_decided_by_the_version_that_brought_them(compile_):
    first = compile_({"a.md": (NEW, 1_700_000_000)})
    assert first.conflicts == ()
    (found,) = compile_({"b.md": (OLD, 1_700_000_000)}).conflicts
    assert (found.older.source, found.newer.source) == ("a.md", "b.md")
    assert found.decided_by == "the version of the store in which it first appeared"
    (again,) = compile_({}).conflicts
    assert again == found


def test_a_mended_document_ends_the_conflict(compile_, tmp_path):
    assert compile_({"a.md": (OLD, 1), "b.md": (NEW, 2)}).conflicts
    assert compile_({"a.md": (NEW, 3)}).conflicts == ()
    with Store.open(tmp_path / "store") as store:
        assert store.manifest.conflicts is None
        assert store.conflicts() == ()
