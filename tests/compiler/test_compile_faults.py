"""Compiles that are killed or starved of disk: the store is the old version or the new one, and resuming ends where an
undisturbed run ends. `make faults` runs them at their full counts."""

from __future__ import annotations

import errno
import multiprocessing
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

import atomlora.compiler.session as session
from atomlora.compiler.compile import compile_corpus
from atomlora.errors import StoreError
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store

FULL = os.environ.get("ATOMLORA_FAULTS") == "full"
SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:1"),
    train=TrainSettings(pool_atoms=1, max_steps=8, rows_per_step=2, silence_tokens=2, pass_probability=0.6),
    question_writer="none",
    max_questions=2,
    slots=2,
)
EDITS = {"ferry.md": ("at 9 every", "at 10 every"), "tower.md": ("slate in 1822", "slate in 14 walls")}


@pytest.fixture
def world(tiny_world, documents, tmp_path, monkeypatch):
    """A store of the documents at its first version, and a function that compiles the edited documents into it."""
    monkeypatch.setattr(session, "SEGMENT_ATOMS", 1)

    def compile_(path):
        return compile_corpus([documents], path, SETTINGS, base=tiny_world.base, device="cpu")

    compile_(tmp_path / "old")
    for name, (before, after) in EDITS.items():
        text = (documents / name).read_text()
        assert before in text
        (documents / name).write_text(text.replace(before, after))
    return compile_


class Outcome:
    """What a store must look like: the old version's files, and the atoms and recall of an undisturbed update."""

    def __init__(self, old: Path, new: Path) -> None:
        self.old = Store.open(old).version
        self.files = {p.relative_to(old): p.read_bytes() for p in old.rglob("*") if self.counts(p)}
        self.new = facts(new)

    @staticmethod
    def counts(path: Path) -> bool:
        return (path.is_file() and path.parent.parent.name == "objects") or path.parent.name == "manifests"

    def check(self, path: Path) -> str:
        """`old` or `new`; every file of the old version is as it was, every byte verified."""
        assert all((path / name).read_bytes() == data for name, data in self.files.items())
        store = Store.open(path)
        assert store.verify().ok
        if store.version == self.old:
            return "old"
        assert store.manifest.parent == self.old
        assert facts(path) == self.new
        return "new"


def facts(path: Path) -> dict[str, float]:
    """{atom: recall} of a store's current version."""
    return {atom.id: atom.record.recall for atom in Store.open(path).atoms()}


def outcome(world, tmp_path: Path) -> tuple[Outcome, float]:
    """An undisturbed update, and the seconds that it took in a child process."""
    shutil.copytree(tmp_path / "old", tmp_path / "calm")
    child = multiprocessing.get_context("fork").Process(target=world, args=(tmp_path / "calm",))
    began = time.monotonic()
    child.start()
    child.join()
    assert child.exitcode == 0
    return Outcome(tmp_path / "old", tmp_path / "calm"), time.monotonic() - began


def test_compiles_killed_at_random_instants(world, tmp_path):
    expected, seconds = outcome(world, tmp_path)
    chance, rounds, seen = random.Random(11), 200 if FULL else 4, []
    for _ in range(rounds):
        path = tmp_path / "killed"
        shutil.copytree(tmp_path / "old", path)
        child = multiprocessing.get_context("fork").Process(target=world, args=(path,))
        child.start()
        time.sleep(chance.uniform(0, seconds))
        os.kill(child.pid, signal.SIGKILL)
        child.join()
        seen.append(expected.check(path))
        world(path)
        assert facts(path) == expected.new
        assert Store.open(path).verify().ok
        shutil.rmtree(path)
    print(
        f"faults: SIGKILL at random instants of a compile: {rounds} of {rounds} survived and resumed, "
        f"{seen.count('new')} of them after the commit"
    )


def dies_at(world, path: Path, step: int) -> None:
    """Compile, and die at the `step`-th fsync, rename or replace: before it where `step` is even, else after."""
    count = 0

    def deadly(real):
        def call(*arguments, **keywords):
            nonlocal count
            mine, count = count == step // 2, count + 1
            if mine and step % 2 == 0:
                os.kill(os.getpid(), signal.SIGKILL)
            result = real(*arguments, **keywords)
            if mine:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return call

    for name in ("fsync", "rename", "replace"):
        setattr(os, name, deadly(getattr(os, name)))
    world(path)


def test_compiles_killed_at_durable_steps(world, tmp_path):
    expected, _ = outcome(world, tmp_path)
    kills, step, stride = 0, 0, 1 if FULL else 11
    while True:
        path = tmp_path / "killed"
        shutil.copytree(tmp_path / "old", path)
        child = multiprocessing.get_context("fork").Process(target=dies_at, args=(world, path, step))
        child.start()
        child.join()
        expected.check(path)
        if child.exitcode == 0:
            break
        assert child.exitcode == -signal.SIGKILL
        kills, step = kills + 1, step + stride
        world(path)
        assert facts(path) == expected.new
        shutil.rmtree(path)
    assert kills >= 3
    print(f"faults: SIGKILL at the fsyncs and renames of a compile: {kills} of {kills} survived and resumed")


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO], ids=["no-space", "io-error"])
def test_compiles_whose_writes_fail(world, tmp_path, code):
    expected, _ = outcome(world, tmp_path)
    real, failed, at, stride = os.write, 0, 0, 1 if FULL else 7
    while True:
        path, count = tmp_path / "starved", 0
        shutil.copytree(tmp_path / "old", path)

        def write(handle, data, at=at, path=path):
            nonlocal count
            if not os.readlink(f"/proc/self/fd/{handle}").startswith(str(path)):
                return real(handle, data)
            count += 1
            if count - 1 == at:
                real(handle, data[: len(data) // 2])
                raise OSError(code, os.strerror(code))
            return real(handle, data)

        message = ""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "write", write)
            try:
                world(path)
            except StoreError as error:
                message = str(error)
        assert bool(message) == (count > at)
        expected.check(path)
        if not message:
            break
        assert os.strerror(code) in message
        assert str(path) in message
        failed, at = failed + 1, at + stride
        world(path)
        assert facts(path) == expected.new
        shutil.rmtree(path)
    assert failed >= 2
    print(f"faults: {errno.errorcode[code]} at writes of a compile: {failed} of {failed} survived and resumed")
