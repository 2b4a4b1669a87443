"""Whoever is killed, and whenever: the store is the old version or the new one, never another."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from atomlora.store import Store


def killed_at(path: Path, make: SimpleNamespace, step: int, after: bool) -> None:
    """In a child: write the third version, but die at (before or after) the `step`-th fsync, rename or replace."""
    count = 0

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **keywords: Any) -> Any:
            nonlocal count
            count += 1
            if count - 1 == step and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **keywords)
            if count - 1 == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("fsync", "rename", "replace"):
        setattr(os, name, deadly(getattr(os, name)))
    with Store.writer(path) as writer:
        make.third_version(writer)


def test_killed_at_every_durable_step(tmp_path: Path, make: SimpleNamespace) -> None:
    template = tmp_path / "template"
    make.build(template, range(5))
    make.build(template, range(1, 7))
    old = Store.open(template)
    kept = {file: (template / file).read_bytes() for file in files_of(template, old)}
    undisturbed = tmp_path / "undisturbed"
    shutil.copytree(template, undisturbed)
    with Store.writer(undisturbed) as writer:
        new = make.third_version(writer)
    context, kills = multiprocessing.get_context("fork"), 0
    for after in (False, True):
        for step in range(200):
            path = tmp_path / f"{after}-{step}"
            shutil.copytree(template, path)
            child = context.Process(target=killed_at, args=(path, make, step, after))
            child.start()
            child.join()
            assert all((path / file).read_bytes() == data for file, data in kept.items())
            store = Store.open(path)
            assert store.version in (old.version, new)  # and so, verified, bit for bit
            assert store.verify().ok
            if child.exitcode == 0:
                break
            assert child.exitcode == -signal.SIGKILL
            kills += 1
            with Store.writer(path) as writer:
                if store.version == old.version:
                    assert make.third_version(writer) == new
            assert Store.open(path).version == new
            assert Store.open(path).verify().ok
            shutil.rmtree(path)
        assert child.exitcode == 0
    assert kills > 40
    print(f"faults: SIGKILL before and after every fsync, rename and replace of a commit: {kills} of {kills} survived")


def files_of(path: Path, store: Store) -> list[str]:
    """The files that a version is made of, relative to the store."""
    objects = [f"objects/{digest[:2]}/{digest}" for digest in store.manifest.objects()]
    return [f"manifests/{store.version}.json", *objects]


def write_until_killed(path: Path, make: SimpleNamespace, first: int, pipe: Connection) -> None:
    number = first
    while True:
        manifest = make.build(path, range(number, number + 3), per_segment=1)
        pipe.send(manifest.version)
        number += 2


def test_kill_at_any_instant(tmp_path: Path, make: SimpleNamespace, full: bool) -> None:
    path, chance = tmp_path / "store", random.Random(7)
    make.build(path, range(3))
    context = multiprocessing.get_context("fork")
    committed = Store.open(path).version
    rounds = 200 if full else 10
    for round_ in range(rounds):
        receive, send = context.Pipe(duplex=False)
        child = context.Process(target=write_until_killed, args=(path, make, 1000 * round_, send))
        child.start()
        send.close()
        time.sleep(chance.uniform(0.01, 0.12))
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        assert child.exitcode == -signal.SIGKILL
        try:
            while receive.poll():
                committed = receive.recv()
        except EOFError:
            pass
        store = Store.open(path)
        assert committed in store.versions[:2]  # the very last may have been committed but not yet told
        if not full or round_ % 10 == 0:
            assert store.verify().ok
        committed = store.version
    print(f"faults: SIGKILL at random instants of a writer: {rounds} of {rounds} survived")
    with Store.writer(path) as writer:
        finished = writer.finished()
        for atom in finished.values():
            assert writer.weights(atom).size == 48
    assert not [file for file in path.rglob(".tmp-*") if file.parent.name != "cache"]
    Store.open(path).gc()
    assert Store.open(path).verify().ok
    with Store.writer(path) as writer:
        assert writer.finished().keys() <= finished.keys()
