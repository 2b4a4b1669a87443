"""What is written is what is read: versions, snapshots, resumed compiles, and what the reader refuses."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import safetensors

from atomlora.errors import StoreError, UsageError
from atomlora.store import Store


def test_a_committed_version_reads_back(tmp_path: Path, make: SimpleNamespace) -> None:
    items = [make.atom(n) for n in range(3)]
    with Store.writer(tmp_path / "deep" / "store") as writer:
        assert writer.head is None
        assert writer.finished() == {}
        writer.write_segment(items)
        manifest = make.commit(
            writer,
            [atom for atom, _ in items],
            message="m",
            stats={"atoms_total": 3},
            calibration={"a": [0.5]},
        )
        assert writer.head == manifest
    with Store.open(tmp_path / "deep" / "store") as store:
        assert store.manifest == manifest
        assert store.version == manifest.version == store.versions[0]
        assert (manifest.parent, manifest.message, manifest.calibration) == (None, "m", {"a": [0.5]})
        assert list(store.atoms()) == [atom for atom, _ in items]
        assert len(store) == 3
        for position, (atom, record) in enumerate(items):
            assert store.get(atom.id) == store.get(atom.id[:6]) == store.at(position) == atom
            for _ in range(2):
                np.testing.assert_array_equal(store.weights(atom.id), record)
            assert not store.weights(atom.id).flags.writeable
        embeddings, positions = store.keys()
        np.testing.assert_array_equal(embeddings, make.keys(3)[0])
        np.testing.assert_array_equal(positions, make.keys(3)[1])
        assert (embeddings.dtype, positions.dtype) == (np.float32, np.int32)
        assert store.verify().ok


def test_sources_find_their_atoms(tmp_path: Path, make: SimpleNamespace) -> None:
    items = [
        make.atom(0, sources=("a.md", "b.md")),
        make.atom(1, sources=("b.md",)),
        make.atom(2, sources=()),
    ]
    with Store.writer(tmp_path) as writer:
        writer.write_segment(items)
        make.commit(writer, [atom for atom, _ in items])
    store = Store.open(tmp_path)
    assert [atom.title for atom in store.from_source("b.md")] == ["title 0", "title 1"]
    assert [atom.title for atom in store.from_source("a.md")] == ["title 0"]
    assert store.from_source("%") == []


def test_versions_share_segments_and_keep_their_order(store_path: Path) -> None:
    store = Store.open(store_path)
    first = Store.open(store_path, store.versions[1])
    assert [atom.title for atom in first.atoms()] == [f"title {n}" for n in range(5)]
    assert [atom.title for atom in store.atoms()] == [f"title {n}" for n in range(1, 7)]
    shared = {s.sha256 for s in first.manifest.segments} & {s.sha256 for s in store.manifest.segments}
    assert len(shared) == 3
    assert [manifest.version for manifest in store.log()] == [store.version, first.version]
    assert Store.open(store_path, store.version[:6]).version == store.version


def test_readers_keep_their_snapshot(store_path: Path, make: SimpleNamespace) -> None:
    before = Store.open(store_path)
    titles = [atom.title for atom in before.atoms()]
    make.build(store_path, range(20, 23))
    after = Store.open(store_path)
    assert len(after) == 3
    assert [atom.title for atom in before.atoms()] == titles
    assert len(before) == 6
    assert before.weights(next(before.atoms()).id).size == 48
    assert [atom.title for atom in before.from_source("a.md")] == titles


def test_an_interrupted_compile_resumes_from_its_segments(tmp_path: Path, make: SimpleNamespace) -> None:
    items = [make.atom(n) for n in range(4)]
    writer = Store.writer(tmp_path).__enter__()
    writer.write_segment(items[:2])
    writer.write_segment(items[2:3])
    writer.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    with pytest.raises(StoreError, match="no version yet"):
        Store.open(tmp_path)
    with Store.writer(tmp_path) as writer:
        finished = writer.finished()
        assert finished == {atom.id: atom for atom, _ in items[:3]}
        np.testing.assert_array_equal(writer.weights(items[1][0]), items[1][1])
        writer.write_segment(items[3:])
        make.commit(writer, [atom for atom, _ in items])
    store = Store.open(tmp_path)
    for atom, record in items:
        np.testing.assert_array_equal(store.weights(atom.id), record)


def test_removed_atoms_come_back_without_training(store_path: Path, make: SimpleNamespace) -> None:
    with Store.writer(store_path) as writer:
        finished = writer.finished()
        assert finished == {make.atom(n)[0].id: make.atom(n)[0] for n in range(7)}
        make.commit(writer, list(finished.values()))
    assert Store.open(store_path).verify().ok


def test_labels_and_provenances_change_without_new_weights(store_path: Path, make: SimpleNamespace) -> None:
    atoms = list(Store.open(store_path).atoms())
    with Store.writer(store_path) as writer:
        manifest = make.commit(writer, [atom.model_copy(update={"labels": ("tenant",)}) for atom in atoms])
        assert manifest.segments == Store.open(store_path, manifest.parent).manifest.segments
    store = Store.open(store_path)
    assert {atom.labels for atom in store.atoms()} == {("tenant",)}
    assert [atom.id for atom in store.atoms()] == [atom.id for atom in atoms]


def test_retrained_weights_replace_the_old_ones(store_path: Path, make: SimpleNamespace) -> None:
    atom, record = make.atom(3, seed=1)
    with Store.writer(store_path) as writer:
        writer.write_segment([(atom, record)])
        assert writer.finished()[atom.id] == atom
        make.commit(writer, [atom])
    np.testing.assert_array_equal(Store.open(store_path).weights(atom.id), record)


def test_an_empty_version_is_a_version(store_path: Path, make: SimpleNamespace) -> None:
    with Store.writer(store_path) as writer:
        make.commit(writer, [])
    store = Store.open(store_path)
    assert (len(store), list(store.atoms()), store.keys()[0].shape) == (0, [], (0, 5))
    assert store.verify().ok


def test_more_segments_than_are_kept_open(tmp_path: Path, make: SimpleNamespace) -> None:
    make.build(tmp_path, range(70), per_segment=1)
    store = Store.open(tmp_path)
    assert len(store.manifest.segments) == 70
    with ThreadPoolExecutor(4) as pool:
        records = list(pool.map(lambda n: store.weights(make.atom(n)[0].id), [*range(70), *range(70)]))
    for number, record in enumerate(records):
        np.testing.assert_array_equal(record, make.atom(number % 70)[1])


def test_segments_are_safetensors(store_path: Path, make: SimpleNamespace) -> None:
    store = Store.open(store_path)
    digest = store.manifest.segments[0].sha256
    data = (store_path / "objects" / digest[:2] / digest).read_bytes()
    tensors = dict(safetensors.deserialize(data))
    atom, record = make.atom(1)
    assert tensors[atom.id]["dtype"] == "BF16"
    assert tensors[atom.id]["shape"] == [record.size]
    assert bytes(tensors[atom.id]["data"]) == record.tobytes()


def test_show_tells_everything_about_an_atom(store_path: Path, make: SimpleNamespace) -> None:
    shown = Store.open(store_path).show(make.atom(2)[0].id[:8])
    assert shown["title"] == "title 2"
    assert shown["size_bytes"] == 96
    assert (store_path / "objects" / shown["segment"][:2] / shown["segment"]).is_file()


@pytest.mark.parametrize("atom_id", ["", "abc", "../../../etc", "zzzzzzzz", "0" * 65, "0" * 64, "%%%%%%%", "a" * 6])
def test_unknown_atoms_are_refused(store_path: Path, atom_id: str) -> None:
    with pytest.raises(StoreError, match="atom"):
        Store.open(store_path).get(atom_id)


def test_an_ambiguous_prefix_is_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    items = [make.atom(n, id=f"abcdef{n}".ljust(64, "0")) for n in range(2)]
    with Store.writer(tmp_path) as writer:
        writer.write_segment(items)
        make.commit(writer, [atom for atom, _ in items])
    store = Store.open(tmp_path)
    with pytest.raises(StoreError, match="several atoms start with abcdef"):
        store.get("abcdef")
    assert store.get("ABCDEF1") == items[1][0]


def test_what_is_no_store_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").mkdir()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("x")
    for name, reason in [
        ("missing", "no such folder"),
        ("file", "is a file"),
        ("empty", "empty folder"),
        ("other", "not an atomlora store"),
    ]:
        with pytest.raises(StoreError, match=reason) as caught:
            Store.open(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    for name in ("file", "other"):
        with pytest.raises(StoreError, match=name), Store.writer(tmp_path / name):
            pass
    assert sorted(os.listdir(tmp_path / "other")) == ["photo.jpg"]


def test_a_writer_that_fails_at_once_leaves_no_folder(tmp_path: Path) -> None:
    with pytest.raises(UsageError), Store.writer(tmp_path / "new"):
        raise UsageError("--layers foo")
    assert not (tmp_path / "new").exists()
    Store.create(tmp_path / "there")
    with pytest.raises(UsageError), Store.writer(tmp_path / "there"):
        raise UsageError("--layers foo")
    assert (tmp_path / "there" / "objects").is_dir()  # somebody made it


def test_create_makes_an_empty_store_once(tmp_path: Path) -> None:
    assert Store.create(tmp_path / "new") == Store.create(tmp_path / "new") == tmp_path / "new"
    with pytest.raises(StoreError, match="no version yet"):
        Store.open(tmp_path / "new")


@pytest.mark.parametrize("version", ["abc", "../HEAD", "0" * 64, "f" * 65, "\0" * 8])
def test_unknown_versions_are_refused(store_path: Path, version: str) -> None:
    with pytest.raises(StoreError, match="version"):
        Store.open(store_path, version)


def test_the_writer_refuses_what_does_not_fit(tmp_path: Path, make: SimpleNamespace) -> None:
    atom, record = make.atom(0)
    other = make.atom(1)
    with Store.writer(tmp_path) as writer:
        for items, reason in [
            ([], "at least one"),
            ([(atom, record), (atom, record)], "each once"),
            ([(atom.model_copy(update={"id": "../../x"}), record)], "sha256 digests"),
            ([(atom, record.astype(np.float32))], "uint16"),
            ([(atom, record.reshape(2, -1))], "uint16"),
            ([(atom, other[1])], "weights_digest"),
            ([make.atom(5, text="\ud800")], "JSON"),
            ([make.atom(5, alpha=float("nan"))], "JSON"),
        ]:
            with pytest.raises(StoreError, match=reason):
                writer.write_segment(items)
        writer.write_segment([(atom, record)])
        with pytest.raises(StoreError, match="no weights in the store"):
            make.commit(writer, [other[0]])
        with pytest.raises(StoreError, match="comes twice"):
            make.commit(writer, [atom, atom])
        with pytest.raises(StoreError, match="rank 2"):
            make.commit(writer, [atom], targets=make.targets[:1])
        with pytest.raises(StoreError, match="JSON"):
            make.commit(writer, [atom], settings={"rate": float("inf")})
        embeddings, positions = make.keys(1)
        for keys in [
            (embeddings, positions + 1),
            (embeddings * np.nan, positions),
            (embeddings[0], positions),
        ]:
            with pytest.raises(StoreError, match="keys"):
                writer.commit([atom], keys, **make.models, settings={}, recipe="r", targets=make.targets)
    assert not (tmp_path / "HEAD").exists()
    with pytest.raises(StoreError, match="not open"):
        writer.write_segment([(atom, record)])


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "../x", "a\0"])
def test_cache_names_stay_in_the_cache(store_path: Path, name: str) -> None:
    store = Store.open(store_path)
    assert store.cache_path("faiss.index") == store_path / "cache" / "faiss.index"
    with pytest.raises(StoreError, match="plain file name"):
        store.cache_path(name)


def test_the_store_needs_no_torch() -> None:
    code = "import sys, atomlora.store; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
