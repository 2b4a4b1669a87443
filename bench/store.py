"""The store at scale, and read while it is written.

    python bench/store.py --json [--sizes 1000,10000,100000] [--seconds 60] [--readers 8]

Scale: stores of synthetic atoms of rank 1 (1 KB of bfloat16 each, one key of 384 dimensions), each figure from a
process of its own that has imported atomlora before. `open_ms`: `Store.open` and the first atom shown, with the index
on disk; `rebuilt_ms`: the same after the cache was deleted; `…_cpu_…`: the process's own time, which the machine's load
does not lengthen; `show_ms` and `weights_ms`: medians over 500 atoms at random; `resident_mb`: what all of that and
going through the whole catalogue added to the process's largest resident set; `command_ms`: `atomlora show` as a
process.
Readers and a writer: one process commits version after version (with compaction and gc in between), others open
snapshots, read atoms at random and compare every byte with what must be there, and again after the writer went on; one
more tries to write, and must be refused by name at once.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import beside  # noqa: F401 - takes this folder off the import path
import numpy as np

from atomlora.atom import Atom, Provenance, Target, TrainRecord, record_size
from atomlora.errors import AtomLoraError, StoreError
from atomlora.questions.types import Question
from atomlora.store import Store, StoreWriter, compact, weights_digest

TARGETS = (
    Target(layer=0, module="up_proj", d_in=64, d_out=192),
    Target(layer=0, module="down_proj", d_in=192, d_out=64),
)
MODELS = {"base": {"name": "none", "fingerprint": "f" * 64}, "embedder": {"name": "none", "fingerprint": "e" * 64}}
PER_SEGMENT = 512
DIMENSION = 384


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--sizes", default="1000,10000,100000")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--readers", type=int, default=8)
    options = parser.parse_args()
    sizes = [int(size) for size in options.sizes.split(",") if size]
    result = {
        "processor": processor(),
        "load": os.getloadavg()[0],
        "scale": [scale(size) for size in sizes],
        "readers": readers_and_writer(options.readers, options.seconds) if options.readers else None,
    }
    print(json.dumps(result) if options.json else json.dumps(result, indent=2))


def scale(atoms: int) -> dict[str, Any]:
    """Write a store of `atoms`, then measure reading it."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("ATOMLORA_BENCH_DIR")) as name:
        path = Path(name) / "store"
        written = alone(write, path, atoms)
        warm = alone(read, path, atoms)
        for file in (path / "cache").iterdir():
            file.unlink()
        rebuilt = alone(first, path)
        atom = identity(atoms // 2)
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "atomlora", "show", str(path), atom[:16], "--json"], check=True, capture_output=True
        )
        command = time.perf_counter() - began
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return {
        "atoms": atoms, **written, **warm, "rebuilt_ms": rebuilt["open_ms"], "rebuilt_cpu_ms": rebuilt["open_cpu_ms"],
        "command_ms": round(1000 * command),
        "bytes_per_atom_on_disk": round(size / atoms), "weights_bytes_per_atom": 2 * record_size(1, TARGETS),
    }  # fmt: skip


def write(path: Path, atoms: int) -> dict[str, Any]:
    began, busy = time.perf_counter(), time.process_time()
    kept = []
    with Store.writer(path) as writer:
        for start in range(0, atoms, PER_SEGMENT):
            items = [make(number) for number in range(start, min(start + PER_SEGMENT, atoms))]
            writer.write_segment(items)
            kept += [atom for atom, _ in items]
        staged = time.perf_counter()
        keys = np.random.default_rng(0).normal(size=(atoms, DIMENSION)).astype(np.float32)
        commit(writer, kept, keys)
    now = time.perf_counter()
    return {
        "write_s": round(staged - began, 2), "commit_s": round(now - staged, 2),
        "write_and_commit_cpu_s": round(time.process_time() - busy, 2),
        "writer_resident_mb": round(peak_mb()),
    }  # fmt: skip


def read(path: Path, atoms: int) -> dict[str, Any]:
    before = peak_mb()
    facts = first(path)
    chance = random.Random(0)
    with Store.open(path) as store:
        ids = [identity(chance.randrange(atoms)) for _ in range(500)]
        store.show(ids[0])
        shown = [timed(lambda one=one: store.show(one)) for one in ids]
        weights = [timed(lambda one=one: store.weights(one)) for one in ids]
        embeddings, _ = store.keys()
        assert embeddings.shape == (atoms, DIMENSION)
        assert sum(1 for _ in store.atoms()) == atoms
    return {
        **facts, "show_ms": round(statistics.median(shown), 3), "show_ms_worst": round(max(shown), 3),
        "weights_ms": round(statistics.median(weights), 3), "resident_mb": round(peak_mb() - before, 1),
    }  # fmt: skip


def first(path: Path) -> dict[str, Any]:
    """Open a store and show its first atom."""
    began, busy = time.perf_counter(), time.process_time()
    with Store.open(path) as store:
        store.show(identity(0))
        return {
            "open_ms": round(1000 * (time.perf_counter() - began), 2),
            "open_cpu_ms": round(1000 * (time.process_time() - busy), 2),
        }


def readers_and_writer(readers: int, seconds: float) -> dict[str, Any]:
    """A writer, `readers` readers and a second writer on one store for `seconds`."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "store"
        next_version(path, 0)
        context = multiprocessing.get_context("fork")
        queue: Any = context.Queue()
        until = time.monotonic() + seconds
        jobs = [context.Process(target=reported, args=(queue, writing, path, until))]
        jobs += [context.Process(target=reported, args=(queue, reading, path, until, n)) for n in range(readers)]
        jobs += [context.Process(target=reported, args=(queue, intruding, path, until))]
        for job in jobs:
            job.start()
        told = [queue.get() for _ in jobs]
        for job in jobs:
            job.join()
        report = Store.open(path).verify()
    counted = ("versions", "snapshots", "reads", "refused", "wrote")
    total = {key: sum(one.get(key, 0) for one in told) for key in counted}
    errors = [error for one in told for error in one["errors"]]
    return {
        "readers": readers, "seconds": seconds, **total, "errors": len(errors), "first_error": next(iter(errors), ""),
        "verified": report.ok,
    }  # fmt: skip


def writing(path: Path, until: float) -> dict[str, Any]:
    count = 0
    while time.monotonic() < until:
        count += 1
        try:
            next_version(path, count)
            if count % 10 == 0:
                compact(path)
            if count % 5 == 0:
                Store.open(path).gc()
        except StoreError as error:
            if "is being written by" not in str(error):  # the intruder got in between two versions
                raise
            time.sleep(0.001)
    return {"versions": count}


def reading(path: Path, until: float, seed: int) -> dict[str, Any]:
    chance, snapshots, reads = random.Random(seed), 0, 0
    while time.monotonic() < until:
        with Store.open(path) as store:
            snapshots += 1
            version, size = store.version, len(store)
            for _ in range(2):
                for number in chance.sample(range(size), 20):
                    atom = store.at(number)
                    expected = make(int(atom.title))
                    if atom != expected[0] or store.weights(atom.id).tobytes() != expected[1].tobytes():
                        raise AssertionError(f"atom {atom.title} of version {version} is not what it must be")
                    reads += 1
                time.sleep(chance.uniform(0, 0.05))  # versions land meanwhile
            if (len(store), store.version) != (size, version):
                raise AssertionError("a snapshot changed")
    return {"snapshots": snapshots, "reads": reads}


def intruding(path: Path, until: float) -> dict[str, Any]:
    refused = wrote = 0
    while time.monotonic() < until:
        began = time.monotonic()
        try:
            with Store.writer(path):
                wrote += 1
        except StoreError as error:
            if "is being written by process" not in str(error) or time.monotonic() - began > 5:
                raise
            refused += 1
        time.sleep(0.05)
    return {"refused": refused, "wrote": wrote}


def reported(queue: Any, job: Callable[..., dict[str, Any]], *arguments: Any) -> None:
    """Run a part in its process, and say what came of it, errors too."""
    try:
        queue.put({**job(*arguments), "errors": []})
    except (AtomLoraError, OSError, AssertionError, ValueError) as error:
        queue.put({"errors": [f"{job.__name__}: {type(error).__name__}: {error}"]})


def next_version(path: Path, number: int) -> None:
    """Version `number`: a window of 200 atoms, 20 of them new."""
    wanted = range(20 * number, 20 * number + 200)
    with Store.writer(path) as writer:
        known = writer.finished()
        new = [n for n in wanted if identity(n) not in known]
        if new:
            writer.write_segment([make(n) for n in new])
        keys = np.zeros((len(wanted), 4), np.float32)
        commit(writer, [known.get(identity(n)) or make(n)[0] for n in wanted], keys)


def commit(writer: StoreWriter, atoms: Sequence[Atom], keys: np.ndarray) -> None:
    positions = np.arange(len(atoms), dtype=np.int32)
    writer.commit(atoms, (keys, positions), **MODELS, settings={}, recipe="r" * 64, targets=TARGETS)


def identity(number: int) -> str:
    return hashlib.sha256(b"atom %d" % number).hexdigest()


def make(number: int) -> tuple[Atom, np.ndarray]:
    """Atom `number` and its record, always the same."""
    record = np.random.default_rng(number).integers(0, 2**16, record_size(1, TARGETS), dtype=np.uint16)
    text = f"Hall {number} of the long house was built by mason {number % 977} in the year {1000 + number % 900}."
    questions = tuple(Question(text=f"{w} built hall {number}?", answer=text, kind="cloze") for w in ("Who", "When"))
    place = Provenance(source=f"f{number // 50}.md", start=0, end=len(text), source_sha256="0" * 64)
    atom = Atom(
        id=identity(number), type="statement", title=str(number), text=text, questions=questions, rank=1, alpha=2.0,
        record=TrainRecord(steps=3, loss=0.1, recall=1.0, seconds=0.5), weights_digest=weights_digest(record),
        provenances=(place,),
    )  # fmt: skip
    return atom, record


def alone(job: Callable[..., dict[str, Any]], *arguments: Any) -> dict[str, Any]:
    """What a part returns when it runs in a process of its own."""
    context = multiprocessing.get_context("fork")
    queue: Any = context.Queue()
    process = context.Process(target=lambda: queue.put(job(*arguments)))
    process.start()
    result: dict[str, Any] = queue.get(timeout=600)
    process.join()
    return result


def timed(call: Callable[[], Any]) -> float:
    began = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - began)


def peak_mb() -> float:
    """This process's largest resident set (VmHWM), which a forked child does not take over from its parent."""
    line = next(one for one in Path("/proc/self/status").read_text().splitlines() if one.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
