"""Stores behind an address: push, pull, open read-only through a cache, and what goes wrong on the way."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store import Evaluation, EvaluationFolder, Store, compact, list_tags, set_tag
from atomlora.store.remote import Remote
from atomlora.store.transfer import pull, push


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import fsspec

    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    yield
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.fixture(params=["memory", "file"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address at which nothing is yet."""
    return f"memory://bucket/{tmp_path.name}" if request.param == "memory" else f"file://{tmp_path}/remote"


def everything(store: Store) -> list[Any]:
    """All that a reader can get out of a version."""
    atoms = list(store.atoms())
    embeddings, positions = store.keys()
    weights = [store.weights(atom.id).tobytes() for atom in atoms]
    return [store.manifest, atoms, weights, embeddings.tobytes(), positions.tobytes()]


def remember(path: Path) -> None:
    """A tag and an evaluation for the current version."""
    version = set_tag(path, "release", force=True)
    facts = {"created": "2030", "golden": "g.jsonl", "golden_sha256": "a" * 64, "asked": {}}
    EvaluationFolder(path).write(Evaluation(version=version, report={"questions": 1}, **facts))


def test_push_and_pull_bring_everything(store_path: Path, url: str, tmp_path: Path, make: SimpleNamespace) -> None:
    remember(store_path)
    sent = push(store_path, url)
    store = Store.open(store_path)
    objects = {digest for manifest in store.log() for digest in manifest.objects()}
    assert (sent.version, sent.objects, sent.versions) == (store.version, len(objects), 2)
    assert push(store_path, url).objects == 0
    other = tmp_path / "other"
    got = pull(url, other)
    assert (got.objects, got.versions, got.size_bytes) == (sent.objects, 2, sent.size_bytes)
    assert everything(Store.open(other)) == everything(store)
    assert Store.open(other).verify().ok
    assert list_tags(other) == {"release": store.version}
    assert EvaluationFolder(other).of(store.version) == EvaluationFolder(store_path).of(store.version)
    make.build(other, [1, 2, 30])
    sent = push(other, url)
    assert sent.versions == 1
    assert pull(url, store_path).versions == 1
    assert everything(Store.open(store_path)) == everything(Store.open(other))
    assert pull(url, store_path).objects == 0


def test_parted_histories_are_not_joined(store_path: Path, url: str, tmp_path: Path, make: SimpleNamespace) -> None:
    push(store_path, url)
    other = tmp_path / "other"
    pull(url, other)
    theirs = make.build(other, [1]).version
    ours = make.build(store_path, [2]).version
    push(other, url)
    with pytest.raises(StoreError, match=f"holds version {theirs[:12]}.*--force"):
        push(store_path, url)
    with pytest.raises(StoreError, match=f"{ours[:12]} is not one.*--force"):
        pull(url, store_path)
    assert Store.open(store_path).version == ours
    push(store_path, url, force=True)
    assert Store.open(url).version == ours
    assert Store.open(url, theirs).version == theirs  # nothing was taken away
    pull(url, other, force=True)
    assert Store.open(other).version == ours
    assert Store.open(other, theirs).verify().ok


def test_open_from_an_address(store_path: Path, url: str, tmp_path: Path, make: SimpleNamespace) -> None:
    remember(store_path)
    push(store_path, url)
    expected = everything(Store.open(store_path))
    with Store.open(url) as store:
        (mirror,) = (tmp_path / "cache" / "stores").iterdir()
        before = {file for file in (mirror / "objects").rglob("*") if file.is_file()}
        assert store.get(make.atom(1)[0].id[:8]).title == "title 1"
        after = {file for file in (mirror / "objects").rglob("*") if file.is_file()}
        assert (len(before), len(after)) == (0, 1)  # the catalogue, and no weights
        assert everything(store) == expected
        assert store.verify().ok
        for attempt in (store.gc, lambda: Store.writer(url)):
            with pytest.raises(StoreError, match="read-only"):
                attempt()
    assert Store.open(url, "release").version == Store.open(url, "HEAD~0").version
    for file in [file for file in mirror.rglob("*") if file.is_file()]:  # what rots in the cache is fetched again
        data = bytearray(file.read_bytes())
        data[len(data) // 2] ^= 1
        file.write_bytes(data)
        assert everything(Store.open(url)) == expected
    shutil.rmtree(mirror)
    assert everything(Store.open(url)) == expected
    make.build(store_path, [3])
    old = Store.open(url)
    push(store_path, url)
    assert len(old) == 6  # its snapshot
    assert len(Store.open(url)) == 1


def test_tags_there_are_moved_only_by_force(
    store_path: Path, url: str, tmp_path: Path, make: SimpleNamespace, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    old = set_tag(store_path, "prod")
    push(store_path, url)
    pull(url, other)
    new = make.build(store_path, [1, 2]).version
    set_tag(store_path, "prod", force=True)
    push(store_path, url)
    assert Store.open(url, "prod").version == old
    assert "tag prod stays where it is; move it with --force" in caplog.text
    push(store_path, url, force=True)
    assert Store.open(url, "prod").version == new
    caplog.clear()
    pull(url, other)
    assert list_tags(other) == {"prod": old}
    assert f"{other}: tag prod stays where it is; move it with --force" in caplog.text
    pull(url, other, force=True)
    assert list_tags(other) == {"prod": new}


def test_tags_that_differ_only_in_case_lock_nobody_out(
    store_path: Path, url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    push(store_path, url)
    pull(url, other)
    version = set_tag(store_path, "prod")
    push(store_path, url)
    set_tag(other, "PROD")
    for force in (False, True):
        push(other, url, force)
        assert "tag PROD is not sent, as it differs from tag prod there" in caplog.text
        assert Remote(url).tags() == ["prod"]
        caplog.clear()
    Remote(url).write("tags/PROD", f"{version}\n".encode())  # as others may have left it
    with Store.open(url) as store:
        assert store.version == version
    pull(url, tmp_path / "third")
    assert [name.lower() for name in list_tags(tmp_path / "third")] == ["prod"]
    assert caplog.text.count("it is left out") == 2


def test_evaluations_are_fetched_once(
    store_path: Path, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    remember(store_path)
    push(store_path, url)
    fetched = []
    real = Remote.read

    def read(self: Remote, name: str, limit: int = 1 << 22) -> bytes | None:
        if name.startswith("evaluations/"):
            fetched.append(name)
        return real(self, name, limit)

    monkeypatch.setattr(Remote, "read", read)
    version = Store.open(url).version
    (mirror,) = (tmp_path / "cache" / "stores").iterdir()
    Store.open(url)
    assert len(fetched) == 1
    (file,) = EvaluationFolder(mirror).paths()
    file.write_bytes(b"rotten")
    Store.open(url)
    assert len(fetched) == 2
    assert EvaluationFolder(mirror).of(version) == EvaluationFolder(store_path).of(version)
    for _ in range(2):
        pull(url, tmp_path / "other")
    assert len(fetched) == 3


def test_a_shallow_history_travels(store_path: Path, url: str, tmp_path: Path) -> None:
    compact(store_path)
    Store.open(store_path).gc(keep=1)
    push(store_path, url)
    assert Store.open(url).verify().ok
    pull(url, tmp_path / "other")
    assert Store.open(tmp_path / "other").verify().ok
    assert len(Store.open(tmp_path / "other").log()) == 1


def files_of(remote: Remote) -> list[str]:
    found: dict[str, int] = {}
    for folder in ("objects", "manifests", "evaluations"):
        found |= remote.sizes(folder)
    return sorted(found)


def test_changed_bytes_are_refused_by_name(store_path: Path, url: str, tmp_path: Path) -> None:
    remember(store_path)
    push(store_path, url)
    remote = Remote(url)
    names = files_of(remote)
    assert len(names) > 8
    for number, name in enumerate(names):
        whole = b"".join(remote.chunks(name))
        flipped = bytearray(whole)
        flipped[len(whole) // 2] ^= 4
        for damaged in (whole[:-1], bytes(flipped)):
            remote.write(name, damaged)
            other = tmp_path / f"other{number}-{len(damaged)}"
            if name.startswith("evaluations/"):
                pull(url, other)
                assert EvaluationFolder(other).paths() == []  # not what its name tells, so not taken
            else:
                with pytest.raises(CorruptStoreError, match=name):
                    pull(url, other)
                assert not (other / "HEAD").exists()
        remote.write(name, whole)
        pull(url, other)
        assert Store.open(other).verify().ok
    remote.write("HEAD", b"rubbish")
    for attempt in (lambda: pull(url, tmp_path / "x"), lambda: Store.open(url), lambda: push(store_path, url)):
        with pytest.raises(CorruptStoreError, match="HEAD"):
            attempt()


def test_a_hostile_remote_leads_nowhere(store_path: Path, url: str, tmp_path: Path) -> None:
    """Names that a remote store lists never become paths unless they are digests or tags."""
    push(store_path, url)
    remote, version = Remote(url), Store.open(store_path).version
    for name in ("tags/abcdef012345", "tags/HEAD", "tags/.hidden", "tags/deep/er", f"evaluations/{version}.x.json",
                 f"evaluations/{version}.{'0' * 64}.json", "manifests/x.json", "objects/zz/etc"):  # fmt: skip
        remote.write(name, f"{version}\n".encode())
    pull(url, tmp_path / "other")
    inside = {p.relative_to(tmp_path / "other").as_posix() for p in (tmp_path / "other").rglob("*") if p.is_file()}
    ours = {p.relative_to(store_path).as_posix() for p in store_path.rglob("*") if p.is_file()}
    assert {name for name in inside - ours if not name.startswith("cache/")} == set()
    assert list_tags(tmp_path / "other") == {}
    assert Store.open(url).verify().ok


@pytest.mark.parametrize("fail_at", range(12))
def test_an_interrupted_push_shows_the_old_version(
    store_path: Path, url: str, make: SimpleNamespace, fail_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = push(store_path, url).version
    make.build(store_path, [4, 5, 40, 41])
    real, count = Remote.write, 0

    def write(self: Remote, name: str, data: bytes) -> None:
        nonlocal count
        count += 1
        if count - 1 == fail_at:
            raise StoreError("the network is gone")
        real(self, name, data)

    with monkeypatch.context() as patch:
        patch.setattr(Remote, "write", write)
        if count_of_writes := fail_at < 6:  # objects, manifest and HEAD
            with pytest.raises(StoreError, match="network"):
                push(store_path, url)
        else:
            push(store_path, url)
    assert Store.open(url).version == (old if count_of_writes else Store.open(store_path).version)
    assert Store.open(url).verify().ok
    push(store_path, url)
    assert everything(Store.open(url)) == everything(Store.open(store_path))


def test_addresses_that_cannot_be(store_path: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"ftp does not promise .* push to one of"):
        push(store_path, "ftp://localhost:9/store")
    for attempt in (lambda: Store.open("ftp://localhost:9/store"), lambda: pull("nonsense://x/y", tmp_path / "other")):
        with pytest.raises(StoreError, match=r"cannot be opened.*; give a folder, or an address such as s3://"):
            attempt()
    for attempt in (lambda: push(store_path, "plain/path"), lambda: pull("plain/path", tmp_path / "other")):
        with pytest.raises(StoreError, match=r"plain/path: is no address; give one such as .*file:///.*plain/path"):
            attempt()
    with pytest.raises(StoreError, match="there is no store; make one with: atomlora push"):
        Store.open("memory://nothing/here")
    with pytest.raises(StoreError, match="there is no store"):
        pull("memory://nothing/here", tmp_path / "other")
    assert not (tmp_path / "other").exists()
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file.*check|cannot be written"):
        push(store_path, f"file://{tmp_path}/file/store")
