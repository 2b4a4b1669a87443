"""No changed byte goes unnoticed, and the error says which file it is and what to do."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store import FORMAT_VERSION, Evaluation, EvaluationFolder, Store, set_tag

BESIDE = ("tombstones", "tag", "evaluation")  # kinds of files that nobody needs who only asks


def everything(path: Path) -> list[Any]:
    """All that a reader can get out of a store's current version."""
    with Store.open(path) as store:
        atoms = list(store.atoms())
        embeddings, positions = store.keys()
        return [
            store.manifest,
            atoms,
            [store.get(atom.id) for atom in atoms],
            store.from_source("a.md"),
            [store.weights(atom.id).tobytes() for atom in atoms],
            embeddings.tobytes(),
            positions.tobytes(),
        ]


def kinds(path: Path) -> dict[str, Path]:
    """One file of every kind; `old` ones belong to an ancestor only."""
    store = Store.open(path)
    old = Store.open(path, store.versions[1])

    def place(digest: str) -> Path:
        return path / "objects" / digest[:2] / digest

    return {
        "HEAD": path / "HEAD",
        "manifest": path / "manifests" / f"{store.version}.json",
        "old manifest": path / "manifests" / f"{old.version}.json",
        "segment": place(store.manifest.segments[0].sha256),
        "catalogue": place(store.manifest.catalogue),
        "keys": place(store.manifest.keys),
        "old catalogue": place(old.manifest.catalogue),
        "old keys": place(old.manifest.keys),
        "tombstones": place(str(store.manifest.tombstones)),
        "tag": path / "tags" / "release",
        "evaluation": next((path / "evaluations").iterdir()),
    }


def damage(data: bytes, chance: random.Random, full: bool) -> Iterator[bytes]:
    """Bit flips (10, in full 1,000), a fifth of them early in the file, and truncations (4, in full 200)."""
    flips, cuts = (1000, 199) if full else (10, 3)
    for number in range(flips):
        flipped = bytearray(data)
        flipped[chance.randrange(len(data) if number % 5 else min(16, len(data)))] ^= 1 << chance.randrange(8)
        yield bytes(flipped)
    yield from (data[: chance.randrange(len(data))] for _ in range(cuts))
    yield b""


def raised(call: Callable[[], Any]) -> tuple[Any, CorruptStoreError | None]:
    """What a call returns, and None; or None, and the error that it raises."""
    try:
        return call(), None
    except CorruptStoreError as error:
        return None, error


def check(path: Path, kind: str, file: Path, expected: list[Any]) -> None:
    """A damaged file is named with its remedy by whoever needs it, by `verify` in any case; nobody is
    misled."""
    found, error = raised(lambda: everything(path))
    if error is None:
        assert found == expected
        assert kind.startswith("old") or kind in ("segment", *BESIDE)  # only bytes that nobody used
    else:
        assert str(file) in str(error)
        assert "backup" in str(error)
        assert not kind.startswith("old")
        assert kind not in BESIDE
    report, error = raised(lambda: Store.open(path).verify())
    if error is None:
        assert not report.ok
        assert {problem.file for problem in report.problems} == {file.relative_to(path).as_posix()}
        for problem in report.problems:
            assert "backup" in problem.remedy if kind != "tag" else "atomlora tag" in problem.remedy
            assert problem.versions or kind == "tag"
    else:
        assert str(file) in str(error)
        assert kind in ("HEAD", "manifest")


@pytest.fixture
def with_all_kinds(store_path: Path) -> Path:
    """The store with a tag and an evaluation."""
    version = set_tag(store_path, "release")
    report = {"questions": 1, "modes": {"atoms": {"contains": 0.5}}}
    facts = {"created": "2030", "golden": "g.jsonl", "golden_sha256": "a" * 64, "asked": {}, "report": report}
    EvaluationFolder(store_path).write(Evaluation(version=version, **facts))
    return store_path


def test_a_damaged_old_manifest_is_told_once(store_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    oldest = Store.open(store_path).versions[-1]
    (store_path / "manifests" / f"{oldest}.json").write_bytes(b"{}")
    with Store.writer(store_path) as writer:
        assert len(writer.finished()) == 7
    assert [oldest in record.getMessage() for record in caplog.records].count(True) == 1


@pytest.mark.parametrize(
    "kind",
    ["HEAD", "manifest", "old manifest", "segment", "catalogue", "keys", "old catalogue", "old keys", *BESIDE],
)
def test_damage_is_found_and_named(with_all_kinds: Path, kind: str, full: bool) -> None:
    path = with_all_kinds
    expected = everything(path)
    file = kinds(path)[kind]
    data = file.read_bytes()
    damaged = [changed for changed in damage(data, random.Random(kind), full) if changed != data]
    for changed in damaged:
        file.write_bytes(changed)
        check(path, kind, file, expected)
    print(f"faults: {kind}: {len(damaged)} of {len(damaged)} flips and truncations found and named")
    file.unlink()
    if kind not in ("tag", "evaluation"):  # these may be removed
        check(path, kind, file, expected)
    file.write_bytes(data)
    assert everything(path) == expected
    assert Store.open(path).verify().ok


@pytest.mark.parametrize("name", ["catalogue.sqlite3", "catalogue.sqlite3.stamp"])
def test_a_damaged_cache_is_made_anew(store_path: Path, name: str, full: bool) -> None:
    expected = everything(store_path)
    file = store_path / "cache" / name
    damaged = list(damage(file.read_bytes(), random.Random(name), full))
    for changed in damaged:
        file.write_bytes(changed)
        assert everything(store_path) == expected
        assert everything(store_path) == expected
    print(f"faults: {name}: {len(damaged)} of {len(damaged)} damaged caches rebuilt")
    shutil.rmtree(store_path / "cache")
    assert everything(store_path) == expected
    assert file.exists()
    shutil.rmtree(store_path / "cache")
    (store_path / "cache").write_text("not a folder")
    assert everything(store_path) == expected


def test_the_cache_of_another_version_is_not_used(store_path: Path, make: SimpleNamespace) -> None:
    everything(store_path)
    stale = {file.name: file.read_bytes() for file in (store_path / "cache").iterdir()}
    make.build(store_path, [0, 5])
    assert len(Store.open(store_path)) == 2
    for name, data in stale.items():
        (store_path / "cache" / name).write_bytes(data)
    assert len(Store.open(store_path)) == 2
    with pytest.raises(StoreError, match="no atom"):
        Store.open(store_path).get(make.atom(6)[0].id)


def test_a_cache_that_lies_is_not_believed(store_path: Path) -> None:
    expected = everything(store_path)
    with contextlib.closing(sqlite3.connect(store_path / "cache" / "catalogue.sqlite3")) as connection:
        connection.execute("DELETE FROM atoms WHERE position > 2")
        connection.execute("UPDATE sources SET source = 'b.md'")
        connection.commit()
    assert everything(store_path) == expected
    assert len(Store.open(store_path)) == 6


def test_an_old_snapshot_leaves_the_cache_alone(store_path: Path) -> None:
    everything(store_path)
    files = {file: file.read_bytes() for file in (store_path / "cache").iterdir()}
    assert len(Store.open(store_path, Store.open(store_path).versions[1])) == 5
    assert {file: file.read_bytes() for file in (store_path / "cache").iterdir()} == files


def test_a_damaged_segment_is_trained_anew(store_path: Path, make: SimpleNamespace) -> None:
    segments = {s.sha256: s for s in Store.open(store_path).manifest.segments}
    digest = next(iter(segments))
    file = store_path / "objects" / digest[:2] / digest
    file.write_bytes(file.read_bytes()[:-1])
    with Store.writer(store_path) as writer:
        assert len(writer.finished()) == 7 - segments[digest].atoms
    make.build(store_path, range(1, 7))
    store = Store.open(store_path)
    for number in range(1, 7):
        assert store.weights(make.atom(number)[0].id).tobytes() == make.atom(number)[1].tobytes()
    (problem,) = store.verify().problems
    assert problem.versions == store.versions[1:]  # the older versions stay damaged, and only they


def test_writing_the_same_segment_again_mends_it(store_path: Path, make: SimpleNamespace) -> None:
    digest = Store.open(store_path).manifest.segments[0].sha256
    file = store_path / "objects" / digest[:2] / digest
    items = [make.atom(0), make.atom(1)]
    assert file.stat().st_size > 0
    file.write_bytes(b"rotten")
    with Store.writer(store_path) as writer:
        assert writer.write_segment(items) == digest
    assert Store.open(store_path).verify().ok


def test_a_damaged_staged_segment_does_not_count(tmp_path: Path, make: SimpleNamespace) -> None:
    with Store.writer(tmp_path) as writer:
        broken = writer.write_segment([make.atom(0)])
        writer.write_segment([make.atom(1)])
    file = tmp_path / "objects" / broken[:2] / broken
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with Store.writer(tmp_path) as writer:
        assert list(writer.finished()) == [make.atom(1)[0].id]
        with pytest.raises(StoreError, match="no weights"):
            make.commit(writer, [make.atom(0)[0]])


def test_a_lost_head_keeps_the_atoms(store_path: Path, make: SimpleNamespace) -> None:
    (store_path / "HEAD").unlink()
    with pytest.raises(CorruptStoreError, match=r"HEAD.*compile again"):
        Store.open(store_path)
    with Store.writer(store_path) as writer:
        assert len(writer.finished()) == 7
    make.build(store_path, range(2))
    assert Store.open(store_path).verify().ok


def rewrite_manifest(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    """Put a manifest in place that has its right digest but other contents."""
    plain = json.loads((path / "manifests" / f"{Store.open(path).version}.json").read_text())
    change(plain)
    data = json.dumps(plain).encode()
    version = hashlib.sha256(data).hexdigest()
    (path / "manifests" / f"{version}.json").write_bytes(data)
    (path / "HEAD").write_text(f"{version}\n")


def test_newer_formats_are_refused_by_name(store_path: Path) -> None:
    def newer(plain: dict[str, Any]) -> None:
        plain["format_version"] = FORMAT_VERSION + 1
        plain["a field of tomorrow"] = plain.pop("targets")

    rewrite_manifest(store_path, newer)
    for attempt in (lambda: Store.open(store_path), lambda: Store.writer(store_path).__enter__()):
        with pytest.raises(StoreError, match=f"store format {FORMAT_VERSION + 1}, made by a newer atomlora") as caught:
            attempt()
        assert not isinstance(caught.value, CorruptStoreError)


@pytest.mark.parametrize("field", ["catalogue", "keys", "parent"])
@pytest.mark.parametrize("name", ["../../../../etc/passwd", "/etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_names_that_are_no_digests_never_become_paths(store_path: Path, field: str, name: str) -> None:
    rewrite_manifest(store_path, lambda plain: plain.update({field: name}))
    with pytest.raises(CorruptStoreError, match=field):
        Store.open(store_path)


@pytest.mark.parametrize("text", ["../manifests/x\n", "", "\n", "0" * 64 + "\n", "0" * 64, "0" * 64 + "\n\n"])
def test_a_strange_head_is_refused(store_path: Path, text: str) -> None:
    (store_path / "HEAD").write_text(text)
    with pytest.raises(CorruptStoreError, match="HEAD"):
        Store.open(store_path)


def test_wrong_contents_under_right_digests_are_found(store_path: Path) -> None:
    """Bytes that were hashed but never belonged together: another version's catalogue, keys or segments."""
    store = Store.open(store_path)
    old = Store.open(store_path, store.versions[1]).manifest
    head = (store_path / "HEAD").read_bytes()
    segments = [segment.model_dump() for segment in old.segments]
    for change in (
        {"catalogue": old.keys},
        {"keys": old.catalogue},
        {"segments": segments[:1]},
        {"segments": [{**s.model_dump(), "size_bytes": 1} for s in store.manifest.segments]},
        {"catalogue": store.manifest.segments[0].sha256},
        {"keys": store.manifest.segments[0].sha256},
    ):
        rewrite_manifest(store_path, lambda plain, change=change: plain.update(change))
        assert not Store.open(store_path).verify().ok
        with pytest.raises(CorruptStoreError):
            everything(store_path)
        (store_path / "HEAD").write_bytes(head)
    report = Store.open(store_path).verify()  # the bad versions are still there, and only they are harmed
    assert {version for problem in report.problems for version in problem.versions}.isdisjoint(store.versions)
