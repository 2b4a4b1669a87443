"""Small stores for the tests: two linear layers of 8 -> 6 and 6 -> 4, atoms of rank 2."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from atomlora.atom import Atom, Provenance, Target, TrainRecord, record_size
from atomlora.questions.types import Question
from atomlora.store import Manifest, Store, StoreWriter, weights_digest

TARGETS = (
    Target(layer=0, module="up_proj", d_in=8, d_out=6),
    Target(layer=1, module="down_proj", d_in=6, d_out=4),
)
MODELS = {
    "base": {"name": "base", "fingerprint": "f" * 64},
    "embedder": {"name": "keys", "fingerprint": "e" * 64},
}


def make_atom(number: int, seed: int = 0, sources: Sequence[str] = ("a.md",), **fields: Any) -> tuple[Atom, np.ndarray]:
    """An atom and its record; `number` decides the identity, `seed` the weights."""
    generator = np.random.default_rng([number, seed])
    record = generator.integers(0, 2**16, record_size(2, TARGETS), dtype=np.uint16)
    values: dict[str, Any] = {
        "id": hashlib.sha256(b"atom %d" % number).hexdigest(),
        "type": "sentence",
        "title": f"title {number}",
        "text": f"Text {number}: naïve\u2028 – \r\n✓",
        "questions": (Question(text=f"Which {number}?", answer=str(number), kind="user"),),
        "rank": 2,
        "alpha": 4.0,
        "record": TrainRecord(steps=3, loss=0.25, recall=1.0, seconds=0.5),
        "weights_digest": weights_digest(record),
        "provenances": tuple(Provenance(source=s, start=0, end=9, source_sha256="0" * 64) for s in sources),
    }
    return Atom(**{**values, **fields}), record


def make_keys(atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Two keys of dimension 5 per atom."""
    embeddings = np.random.default_rng(atoms).normal(size=(2 * atoms, 5)).astype(np.float32)
    return embeddings, np.repeat(np.arange(atoms, dtype=np.int32), 2)


def commit(writer: StoreWriter, atoms: Sequence[Atom], **fields: Any) -> Manifest:
    """Commit with settings that do not matter to the test."""
    values = {**MODELS, "settings": {"rank": 2}, "recipe": "r" * 64, "targets": TARGETS, **fields}
    return writer.commit(atoms, make_keys(len(atoms)), **values)


def build(path: Path, numbers: Sequence[int], seed: int = 0, per_segment: int = 2) -> Manifest:
    """Add a version with exactly these atoms; those that the store has already are kept."""
    with Store.writer(path) as writer:
        finished = writer.finished()
        items = [make_atom(number, seed) for number in numbers]
        new = [item for item in items if item[0].id not in finished]
        for start in range(0, len(new), per_segment):
            writer.write_segment(new[start : start + per_segment])
        return commit(writer, [finished.get(atom.id, atom) for atom, _ in items], message=f"{list(numbers)}")


def third_version(writer: StoreWriter) -> str:
    """Commit atoms 4-9, two a segment, as the version after those of `store_path`; always the same bytes."""
    items = [make_atom(n) for n in range(4, 10)]
    new = [item for item in items if item[0].id not in writer.finished()]
    for start in range(0, len(new), 2):
        writer.write_segment(new[start : start + 2])
    return commit(writer, [atom for atom, _ in items], created="2030-01-01T00:00:00+00:00").version


@pytest.fixture
def full() -> bool:
    """Whether fault tests run at their full counts (`make faults`) and print what they found."""
    return os.environ.get("ATOMLORA_FAULTS") == "full"


@pytest.fixture
def make() -> SimpleNamespace:
    """The helpers above, for test files, which cannot import this one."""
    return SimpleNamespace(
        atom=make_atom,
        keys=make_keys,
        commit=commit,
        build=build,
        third_version=third_version,
        targets=TARGETS,
        models=MODELS,
    )


@pytest.fixture
def store_path(tmp_path: Path) -> Path:
    """A store of two versions: atoms 0-4, then 1-6."""
    path = tmp_path / "store"
    build(path, range(5))
    build(path, range(1, 7))
    return path


@pytest.fixture
def files() -> Callable[[Path], list[Path]]:
    """The files that a store is made of: all but caches and the lock."""

    def list_files(path: Path) -> list[Path]:
        found = [p for p in sorted(path.rglob("*")) if p.is_file() and p.parent.name != "cache" and p.name != "lock"]
        assert found
        return found

    return list_files
