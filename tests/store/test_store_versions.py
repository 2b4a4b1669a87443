"""Versions by name: tags, checkout, what lies between two of them, what they scored, and what gc may forget."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store import (
    Evaluation,
    EvaluationFolder,
    Store,
    checkout,
    compact,
    delete_tag,
    difference,
    list_tags,
    set_tag,
)
from atomlora.store.evaluations import moved
from atomlora.store.refs import resolve


def evaluation(
    version: str, contains: float, created: str = "2030", golden: str = "a" * 64, **asked: int
) -> Evaluation:
    report = {"questions": 3, "modes": {"atoms": {"contains": contains}}, "routing": {"recall_at_1": 0.5}}
    return Evaluation(
        version=version, created=created, golden="g.jsonl", golden_sha256=golden, asked=asked, report=report
    )


def test_versions_have_names(store_path: Path) -> None:
    new, old = Store.open(store_path).versions
    assert set_tag(store_path, "good", "HEAD~1") == old
    names = {"HEAD": new, "HEAD~1": old, "good": old, new[:6]: new, f"{new}~1": old, "good~0": old}
    for name, version in names.items():
        assert resolve(store_path, name) == version
        assert Store.open(store_path, name).version == version
    for wrong in ("HEAD~2", "good~1", "bad", "~1", "good~x", "", "../HEAD", "0" * 64, "HEAD~1~1"):
        with pytest.raises(StoreError):
            resolve(store_path, wrong)
    with pytest.raises(StoreError, match="taken"):
        set_tag(store_path, "good", "HEAD")
    set_tag(store_path, "good", "HEAD", force=True)
    assert list_tags(store_path) == {"good": new}
    delete_tag(store_path, "good")
    assert list_tags(store_path) == {}
    with pytest.raises(StoreError, match="none of that name"):
        delete_tag(store_path, "good")


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/x", "a/b", "a\0b", "HEAD", "head", "abcdef", "0123456789", "", ".x", "é", "-x", "x" * 65, "a~1"],
)
def test_names_that_cannot_be_tags(store_path: Path, name: str) -> None:
    with pytest.raises(StoreError, match="cannot be a tag"):
        set_tag(store_path, name)
    assert not (store_path / "tags").exists()


def test_tags_that_differ_only_in_case_are_refused(store_path: Path) -> None:
    set_tag(store_path, "Release")
    with pytest.raises(StoreError, match="upper and lower case"):
        set_tag(store_path, "release", force=True)


def test_a_tag_that_is_a_link_is_replaced_and_not_followed(store_path: Path, tmp_path: Path) -> None:
    (store_path / "tags").mkdir()
    (tmp_path / "secret").write_text("secret")
    (store_path / "tags" / "t").symlink_to(tmp_path / "secret")
    with pytest.raises(CorruptStoreError, match=r"tags/t: does not hold") as caught:
        list_tags(store_path)
    assert "secret" not in str(caught.value)
    set_tag(store_path, "t", force=True)
    assert (tmp_path / "secret").read_text() == "secret"
    assert not (store_path / "tags" / "t").is_symlink()


def test_checkout_goes_back_and_forth(store_path: Path, make: SimpleNamespace) -> None:
    new, old = Store.open(store_path).versions
    done = checkout(store_path, "HEAD~1")
    assert (done.version, done.before) == (old, new)
    assert [a.title for a in Store.open(store_path).atoms()] == [f"title {n}" for n in range(5)]
    assert Store.open(store_path).verify().versions == (old, new)  # what is not in the line is verified too
    branch = make.build(store_path, [0, 9])
    assert branch.parent == old
    checkout(store_path, new)
    assert Store.open(store_path).versions == (new, old)
    with Store.writer(store_path), pytest.raises(StoreError, match="being written"):
        checkout(store_path, old)
    with pytest.raises(StoreError, match="no version starts"):
        checkout(store_path, "0" * 12)


def test_checkout_refuses_what_is_not_whole_and_mends_head(store_path: Path) -> None:
    new, old = Store.open(store_path).versions
    segment = Store.open(store_path, old).manifest.segments[0].sha256
    file = store_path / "objects" / segment[:2] / segment
    data = file.read_bytes()
    for damage in (lambda: file.write_bytes(data[:-1]), file.unlink):
        damage()
        with pytest.raises(CorruptStoreError, match=segment):
            checkout(store_path, old)
        assert Store.open(store_path).version == new
    file.write_bytes(data)
    (store_path / "HEAD").write_text("rubbish")
    assert checkout(store_path, old).before is None
    assert Store.open(store_path).version == old


def test_differences(store_path: Path, make: SimpleNamespace) -> None:
    with Store.writer(store_path) as writer:
        known = writer.finished()
        retrained = make.atom(2, seed=1)
        writer.write_segment([retrained])
        moved_atom = make.atom(3, sources=("b.md",))[0]
        atoms = [make.atom(1)[0], retrained[0], moved_atom, known[make.atom(4)[0].id]]
        make.commit(writer, atoms, settings={"rank": 2, "train": {"steps": 3}})
    found = difference(Store.open(store_path, "HEAD~2"), Store.open(store_path))
    assert [a.id for a in found.removed] == [make.atom(0)[0].id]
    assert found.added == ()
    assert [a.id for a in found.retrained] == [make.atom(2)[0].id]
    assert [(a.id, a.before, a.now) for a in found.moved] == [(moved_atom.id, ("a.md:0-9",), ("b.md:0-9",))]
    assert found.unchanged == 2
    assert found.settings == {"train.steps": (None, 3)}
    same = difference(Store.open(store_path), Store.open(store_path))
    assert (same.unchanged, same.added, same.removed, same.settings) == (4, (), (), {})


def test_what_is_removed_has_a_tombstone(store_path: Path, make: SimpleNamespace) -> None:
    store = Store.open(store_path)
    gone = make.atom(0)[0]
    assert [(stone.id, stone.sources) for stone in store.tombstones()] == [(gone.id, ("a.md",))]
    assert Store.open(store_path, "HEAD~1").tombstones() == []
    with pytest.raises(StoreError, match=rf"version {store.version[:12]} removed it \(from a\.md\)"):
        store.get(gone.id)
    assert b"Text" not in store._objects.path(str(store.manifest.tombstones)).read_bytes()
    assert Store.open(store_path, f"{store.version[:12]}~1").get(gone.id) == gone


def test_evaluations_stay_with_their_version(store_path: Path) -> None:
    new, old = Store.open(store_path).versions
    kept = EvaluationFolder(store_path)
    kept.write(evaluation(old, 0.25))
    kept.write(evaluation(new, 0.75, created="2031"))
    kept.write(evaluation(new, 0.5))
    kept.write(evaluation(new, 1.0, created="2032", golden="b" * 64))
    assert [one.scores()["atoms"] for one in kept.of(new)] == [0.5, 0.75, 1.0]
    history = Store.open(store_path).log()
    of = {m.version: kept.of(m.version) for m in history}
    assert moved(history, of) == {}  # the latest asked other questions
    of[new] = of[new][:2]
    assert moved(history, of) == {new: {"atoms": 0.5, "routing": 0.0}}
    of[old] = [evaluation(old, 0.25, limit=7)]
    assert moved(history, of) == {}
    assert Store.open(store_path).verify().ok


def test_a_damaged_evaluation_is_named(store_path: Path) -> None:
    version = Store.open(store_path).version
    kept = EvaluationFolder(store_path)
    path = kept.write(evaluation(version, 0.5))
    path.write_bytes(path.read_bytes().replace(b"0.5", b"0.9"))
    with pytest.raises(CorruptStoreError, match=path.name):
        kept.of(version)
    (problem,) = Store.open(store_path).verify().problems
    assert (problem.file, problem.versions) == (f"evaluations/{path.name}", (version,))


def test_gc_forgets_old_versions_when_told(store_path: Path, make: SimpleNamespace) -> None:
    first = Store.open(store_path).versions[1]
    tagged = make.build(store_path, [1, 2, 20]).version
    set_tag(store_path, "kept", tagged)
    head = make.build(store_path, [1, 30]).version
    EvaluationFolder(store_path).write(evaluation(first, 0.5))
    planned = Store.open(store_path).gc(dry_run=True, keep=1)
    assert first in planned.versions
    assert len(Store.open(store_path).versions) == 4
    report = Store.open(store_path).gc(keep=1)
    assert (set(report.versions), report.removed) == (set(planned.versions), planned.removed)
    store = Store.open(store_path)
    assert store.versions == (head, tagged)
    assert store.verify().ok
    assert not list((store_path / "evaluations").iterdir())
    with pytest.raises(StoreError, match="only 1 versions before"):
        resolve(store_path, "HEAD~2")
    assert make.atom(0)[0].id not in {atom.id for atom in store.atoms()}
    for number in (1, 2, 20):
        assert Store.open(store_path, "kept").weights(make.atom(number)[0].id).size == 48
    make.build(store_path, range(3))
    assert Store.open(store_path).verify().ok
    manifest = store_path / "manifests" / f"{tagged}.json"
    manifest.unlink()  # one that was not forgotten on purpose
    assert not Store.open(store_path).verify().ok


def test_compacting_and_forgetting_really_forgets(store_path: Path, make: SimpleNamespace) -> None:
    gone = make.atom(0)[0]  # shares a segment with an atom that stays
    Store.open(store_path).gc(keep=1)
    with Store.writer(store_path) as writer:
        assert gone.id in writer.finished()
    compact(store_path)
    Store.open(store_path).gc(keep=1)
    files = [file for file in (store_path / "objects").rglob("*") if file.is_file()]
    assert not [file for file in files if b"Text 0" in file.read_bytes()]
    with Store.writer(store_path) as writer:
        assert len(writer.finished()) == 6


def test_gc_interrupted_after_its_note_loses_nothing(store_path: Path) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Path, "unlink", killed)
        with pytest.raises(KeyboardInterrupt):
            Store.open(store_path).gc(keep=1)
    assert len(Store.open(store_path).versions) == 2
    assert Store.open(store_path).verify().ok
    Store.open(store_path).gc(keep=1)
    assert len(Store.open(store_path).versions) == 1


def test_a_store_of_format_1_is_read_and_carried_on(tmp_path: Path, make: SimpleNamespace) -> None:
    path = tmp_path / "store"
    shutil.copytree(Path(__file__).parent / "data" / "format1", path)
    store = Store.open(path)
    assert store.manifest.format_version == 1
    assert [atom.title for atom in store.atoms()] == ["title 1", "title 2", "title 3"]
    assert store.verify().ok
    for number in (1, 2, 3):
        atom, record = make.atom(number)
        assert store.show(atom.id)["dtype"] == "bf16"
        assert store.weights(atom.id).tobytes() == record.tobytes()
    old = store.version
    new = make.build(path, [1, 4])
    assert (new.format_version, new.parent) == (2, old)
    compact(path, "int8")
    assert Store.open(path).verify().ok
    checkout(path, old)
    assert len(Store.open(path)) == 3
