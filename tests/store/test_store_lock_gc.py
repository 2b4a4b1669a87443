"""One writer at a time, told by name; and gc, which removes nothing that a version needs."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import pytest

from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store import Store, maintenance
from atomlora.store.catalogue import Catalogue
from atomlora.store.lock import WriterLock
from atomlora.store.objects import ObjectFolder


def hold(path: Path, pipe: Connection) -> None:
    with Store.writer(path):
        pipe.send("held")
        time.sleep(60)


def test_a_second_writer_is_refused_and_a_dead_one_forgotten(store_path: Path, make: SimpleNamespace) -> None:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    child = context.Process(target=hold, args=(store_path, send))
    child.start()
    try:
        assert receive.recv() == "held"
        started = time.monotonic()
        with pytest.raises(StoreError, match=f"process {child.pid} on {socket.gethostname()} since 20"):
            Store.writer(store_path).__enter__()
        with pytest.raises(StoreError, match=f"process {child.pid}"):
            Store.open(store_path).gc()
        assert time.monotonic() - started < 1
        assert len(Store.open(store_path)) == 6  # readers do not care
    finally:
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
    with WriterLock(store_path / "lock") as lock:
        assert lock.recovered is not None
        assert lock.recovered.pid == child.pid
    with WriterLock(store_path / "lock") as lock:
        assert lock.recovered is None
    make.build(store_path, range(2))


def test_two_writers_of_one_process(store_path: Path) -> None:
    with Store.writer(store_path), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        Store.writer(store_path).__enter__()
    with Store.writer(store_path) as writer:
        assert writer.head is not None


@pytest.mark.parametrize("text", [b"", b"garbage", b"\xff" * 5000, b"{}"])
def test_a_strange_lock_text_does_no_harm(store_path: Path, text: bytes) -> None:
    (store_path / "lock").write_bytes(text)
    with Store.writer(store_path), pytest.raises(StoreError, match=f"process {os.getpid()}"):
        Store.writer(store_path).__enter__()


def test_a_forked_child_does_not_keep_the_lock(store_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    with Store.writer(store_path):
        child = context.Process(target=time.sleep, args=(60,))
        child.start()
    try:
        with Store.writer(store_path) as writer:
            assert writer.head is not None
        assert child.is_alive()
    finally:
        child.kill()
        child.join()


def hold_with_a_child(path: Path, pipe: Connection) -> None:
    with Store.writer(path):
        child = multiprocessing.get_context("fork").Process(target=say_and_sleep, args=(pipe,))
        child.start()
        time.sleep(60)


def say_and_sleep(pipe: Connection) -> None:
    pipe.send(os.getpid())
    time.sleep(60)


def test_a_killed_writers_children_do_not_keep_the_lock(store_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    receive, send = context.Pipe(duplex=False)
    holder = context.Process(target=hold_with_a_child, args=(store_path, send))
    holder.start()
    child = receive.recv()
    try:
        holder.kill()
        holder.join()
        os.kill(child, 0)  # the child lives on
        with Store.writer(store_path) as writer:
            assert writer.head is not None
    finally:
        os.kill(child, signal.SIGKILL)


def test_a_lock_that_is_a_folder_is_a_clear_error(tmp_path: Path) -> None:
    Store.create(tmp_path / "store")
    (tmp_path / "store" / "lock").mkdir()
    with pytest.raises(StoreError, match="lock: cannot be written"):
        Store.writer(tmp_path / "store").__enter__()


def test_gc_removes_what_no_version_needs(
    store_path: Path, make: SimpleNamespace, files: Callable[[Path], list[Path]]
) -> None:
    kept = files(store_path)
    assert Store.open(store_path).gc().removed == ()
    with Store.writer(store_path) as writer:
        staged = writer.write_segment([make.atom(50)])
    (store_path / "objects" / ".tmp-1-dead").write_bytes(b"12345")
    size = (store_path / "objects" / staged[:2] / staged).stat().st_size
    planned = Store.open(store_path).gc(dry_run=True)
    assert (planned.removed, planned.freed_bytes) == ((staged,), size)
    assert len(files(store_path)) == len(kept) + 2
    report = Store.open(store_path).gc()
    assert (report.removed, report.freed_bytes) == ((staged,), size + 5)
    assert files(store_path) == kept
    assert Store.open(store_path).verify().ok
    with Store.writer(store_path) as writer:
        assert make.atom(50)[0].id not in writer.finished()


@pytest.mark.parametrize("folder", ["cache", "evaluations"])
def test_gc_takes_only_abandoned_files_of_those_without_the_lock(store_path: Path, folder: str) -> None:
    (store_path / folder).mkdir(exist_ok=True)
    fresh, old, renamed = (store_path / folder / f".tmp-{name}" for name in ("fresh", "old", "renamed"))
    fresh.write_bytes(b"1")
    old.write_bytes(b"12345")
    os.utime(old, (0, 0))
    renamed.symlink_to("nowhere")  # listed, but not there when looked at: as if it had just got its name
    assert Store.open(store_path).gc().freed_bytes == 5
    assert (fresh.exists(), old.exists()) == (True, False)


def test_gc_keeps_every_version_and_open_snapshots(store_path: Path, make: SimpleNamespace) -> None:
    snapshot = Store.open(store_path)
    make.build(store_path, [0])
    snapshot.gc()
    assert len([snapshot.weights(atom.id) for atom in snapshot.atoms()]) == 6
    assert snapshot.verify().ok
    assert Store.open(store_path).verify().versions[1:] == snapshot.versions


def test_gc_refuses_to_guess(store_path: Path, make: SimpleNamespace, files: Callable[[Path], list[Path]]) -> None:
    store = Store.open(store_path)
    with Store.writer(store_path) as writer:
        writer.write_segment([make.atom(50)])
    manifest = store_path / "manifests" / f"{store.versions[1]}.json"
    manifest.write_bytes(manifest.read_bytes() + b" ")
    before = files(store_path)
    with pytest.raises(CorruptStoreError, match=manifest.name):
        store.gc()
    assert files(store_path) == before


def test_killed_writers_files_go_when_the_next_one_comes(store_path: Path) -> None:
    for folder in ("", "objects", "manifests"):
        (store_path / folder / ".tmp-1-dead").write_bytes(b"x")
    with Store.writer(store_path):
        assert not list(store_path.rglob(".tmp-*"))


def test_verify_counts_what_it_read(store_path: Path, files: Callable[[Path], list[Path]]) -> None:
    report = Store.open(store_path).verify()
    objects = [file for file in files(store_path) if file.parent.parent.name == "objects"]
    assert report.ok
    assert report.objects == len(objects)
    assert report.size_bytes == sum(file.stat().st_size for file in objects)
    assert report.atoms == 7
    assert report.versions == Store.open(store_path).versions


def test_versions_that_share_a_catalogue_are_verified_with_one_reading(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Store.open(store_path) as store, Store.writer(store_path) as writer:
        writer.recommit(list(store.atoms()), "another calibration", calibration={"threshold": 0.5})
    store = Store.open(store_path)
    new, old, oldest = store.log()
    assert new.catalogue == old.catalogue != oldest.catalogue
    read = []

    def catalogue(objects: ObjectFolder, digest: str) -> Catalogue:
        read.append(digest)
        return Catalogue(objects, digest)

    monkeypatch.setattr(maintenance, "Catalogue", catalogue)
    assert store.verify().ok
    assert read == [new.catalogue, oldest.catalogue]
    shared = next(segment.sha256 for segment in new.segments if segment not in oldest.segments)
    (store_path / "objects" / shared[:2] / shared).unlink()
    (problem,) = store.verify().problems
    assert problem.versions == (new.version, old.version)
