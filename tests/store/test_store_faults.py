"""Whatever fails, and whenever: the store is the old version or the new one, never another."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from atomlora.errors import StoreError
from atomlora.store import Store, checkout, compact, set_tag

CALLS = ("mkdir", "write", "fsync", "rename", "replace", "open")


class Faults:
    """Counts the calls that change the disk, and makes the `fail_at`-th (from 0) fail; -1: none."""

    def __init__(self, fail_at: int, code: int) -> None:
        self.fail_at, self.code, self.count = fail_at, code, 0
        self.failed = ""

    @contextmanager
    def installed(self) -> Iterator[Faults]:
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, self._wrap(name, getattr(os, name)))
            yield self

    def _wrap(self, name: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            if name == "open" and not arguments[1] & os.O_CREAT:
                return real(*arguments, **keywords)
            if any(f"{os.sep}cache" in str(argument) for argument in arguments):  # may fail without a word
                return real(*arguments, **keywords)
            self.count += 1
            if self.count - 1 != self.fail_at:
                return None if name == "fsync" else real(*arguments, **keywords)  # no power is cut here
            self.failed = name
            if name == "write":  # a full disk takes a part first
                real(arguments[0], arguments[1][: len(arguments[1]) // 2])
            raise OSError(self.code, os.strerror(self.code))

        return call


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["no-space", "io-error"])
@pytest.mark.parametrize("fresh", [True, False], ids=["first-version", "third-version"])
def test_every_point_of_failure(tmp_path: Path, make: SimpleNamespace, fresh: bool, code: int) -> None:
    template, failed = tmp_path / "template", []
    if not fresh:
        make.build(template, range(5))
        make.build(template, range(1, 7))
    for fail_at in range(200):
        path = tmp_path / f"at-{fail_at}"
        if not fresh:
            shutil.copytree(template, path)
        old = None if fresh else Store.open(path).version
        faults, new, message = Faults(fail_at, code), "", ""
        try:
            with faults.installed(), Store.writer(path) as writer:
                new = make.third_version(writer)
        except StoreError as error:
            message = str(error)
        assert (message == "") == (faults.failed == "")
        if message:
            assert os.strerror(faults.code) in message
            assert str(path) in message
        failed.append(faults.failed)
        assert not list(tmp_path.rglob(".tmp-*"))
        if (path / "HEAD").exists():
            store = Store.open(path)
            assert len(store.versions) in ((1,) if fresh else (2, 3))
            titles = [atom.title for atom in store.atoms()]
            assert store.version == old or titles == [f"title {n}" for n in range(4, 10)]
            assert store.verify().ok
        else:
            assert fresh
        if faults.failed == "":
            assert Store.open(path).version == new
            break
        with Store.writer(path) as writer:  # the same command again
            again = make.third_version(writer)
        store = Store.open(path)
        assert store.version == again
        assert store.verify().ok
        for number in range(4, 10):
            atom, record = make.atom(number)
            np.testing.assert_array_equal(store.weights(atom.id), record)
    assert failed[-1] == ""
    assert set(failed[:-1]) == set(CALLS)
    print(f"faults: {errno.errorcode[code]} at each of {len(failed) - 1} calls: old or new version each time")


def tidy(path: Path) -> None:
    """Compact, name the version, go back, and forget: everything that changes a store beside a compile."""
    compact(path)
    set_tag(path, "kept", "HEAD~2")
    checkout(path, "HEAD~1")
    checkout(path, "HEAD~1")
    Store.open(path).gc(keep=1)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["no-space", "io-error"])
def test_every_point_of_failure_of_maintenance(tmp_path: Path, make: SimpleNamespace, code: int) -> None:
    template = tmp_path / "template"
    make.build(template, range(5))
    make.build(template, range(1, 7))
    titles = [f"title {n}" for n in range(1, 7)], [f"title {n}" for n in range(5)]
    tried = 0
    for fail_at in range(200):
        path = tmp_path / f"at-{fail_at}"
        shutil.copytree(template, path)
        faults, message = Faults(fail_at, code), ""
        try:
            with faults.installed():
                tidy(path)
        except StoreError as error:
            message = str(error)
        store = Store.open(path)
        assert [atom.title for atom in store.atoms()] in titles
        assert all(store.weights(atom.id).size == 48 for atom in store.atoms())
        assert store.verify().ok
        if faults.failed == "":
            break
        assert os.strerror(code) in message
        tried += 1
    assert tried > 20
    print(f"faults: {errno.errorcode[code]} at each of {tried} calls of compact, tag, checkout and gc: whole each time")


def test_an_interrupt_leaves_no_temporary_file(store_path: Path, make: SimpleNamespace) -> None:
    before = Store.open(store_path).version

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with Store.writer(store_path) as writer:
        writer.finished()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", interrupted)
            with pytest.raises(KeyboardInterrupt):
                make.third_version(writer)
    assert not list(store_path.rglob(".tmp-*"))
    assert Store.open(store_path).version == before


def test_short_writes_are_carried_on(store_path: Path, make: SimpleNamespace) -> None:
    real = os.write
    with pytest.MonkeyPatch.context() as patch, Store.writer(store_path) as writer:
        patch.setattr(os, "write", lambda handle, data: real(handle, data[:100]))
        make.third_version(writer)
    assert Store.open(store_path).verify().ok


def test_bytes_are_durable_before_their_name_and_names_before_the_next_step(
    store_path: Path, make: SimpleNamespace
) -> None:
    """Every rename comes after an fsync of the file and is followed, before the next one, by one of its
    folder."""
    steps: list[tuple[str, str]] = []
    names: dict[int, str] = {}
    real = {name: getattr(os, name) for name in ("open", "write", "fsync", "rename", "replace")}

    def opening(path: Any, *arguments: Any, **keywords: Any) -> int:
        handle = real["open"](path, *arguments, **keywords)
        names[handle] = str(path)
        return handle

    def writing(handle: int, data: Any) -> int:
        steps.append(("write", names[handle]))
        return real["write"](handle, data)

    def fsyncing(handle: int) -> None:
        steps.append(("fsync", names[handle]))

    def renaming(name: str) -> Callable[..., None]:
        def call(source: Any, target: Any) -> None:
            if Path(target).parent.name != "cache":
                steps.append((name, f"{source}>{target}"))
            real[name](source, target)

        return call

    with Store.writer(store_path) as writer, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", opening)
        patch.setattr(os, "write", writing)
        patch.setattr(os, "fsync", fsyncing)
        patch.setattr(os, "rename", renaming("rename"))
        patch.setattr(os, "replace", renaming("replace"))
        make.third_version(writer)
    moves = [index for index, (name, _) in enumerate(steps) if name in ("rename", "replace")]
    assert [steps[index][0] for index in moves] == ["rename"] * (len(moves) - 1) + ["replace"]
    assert len(moves) >= 6  # two segments, the catalogue, the keys, the manifest, HEAD
    assert steps[moves[-1]][1].endswith(">" + str(store_path / "HEAD"))
    assert steps[moves[-2]][1].startswith(str(store_path / "manifests"))
    for index, following in zip(moves, [*moves[1:], len(steps)], strict=True):
        source, target = steps[index][1].split(">")
        last_write = max(i for i, step in enumerate(steps) if step == ("write", source))
        assert last_write < steps.index(("fsync", source)) < index
        assert ("fsync", str(Path(target).parent)) in steps[index:following]
