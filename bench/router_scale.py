"""The scale part of bench/router.py: every kind of key index over synthetic neighbours of real keys.

A synthetic key is a real one moved by 0.3 to 1 times the unit difference of two others, so it varies where real keys
vary. Questions are real and no key. Recall is against exact search over the same keys; latencies are of one question
on one thread, with all that the router does to find keys (the exact ranking of what codes stand for included).
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from atomlora.router.index import BLOCK, KeyIndex, Selection, factory, index_kind
from atomlora.router.index_cache import Cached, fingerprints, open_index, save_index

KINDS = ("flat", "hnsw", "ivf", "ivfpq")
CANDIDATES = 96  # keys that the router asks for
REMOVED = 1_000


def synthetic_keys(real: np.ndarray, count: int, path: Path) -> np.ndarray:
    """float32 (count, d) unit rows in a mapped file, the first of them `real`."""
    random = np.random.default_rng(0)
    rows = np.lib.format.open_memmap(path, "w+", np.float32, (count, real.shape[1]))
    rows[: len(real)] = real[:count]
    for start in range(len(real), count, BLOCK):
        some = min(BLOCK, count - start)
        seed, one, other = (real[random.integers(0, len(real), some)] for _ in range(3))
        way = one - other
        way /= np.maximum(np.linalg.norm(way, axis=1, keepdims=True), 1e-6)
        moved = seed + random.uniform(0.3, 1.0, (some, 1)).astype(np.float32) * way
        rows[start : start + some] = moved / np.linalg.norm(moved, axis=1, keepdims=True)
    rows.flush()
    return np.load(path, mmap_mode="r")


def measure_scale(real: np.ndarray, asked: np.ndarray, arguments: Any) -> list[dict[str, Any]]:
    """One row per number of keys and kind; `real` float32 (n, d) keys, `asked` float32 (q, d) questions."""
    faiss.omp_set_num_threads(1)
    rows: list[dict[str, Any]] = []
    built: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        for count in arguments.sizes:
            keys = synthetic_keys(real, count, Path(folder) / "keys.npy")
            best = faiss.knn(asked, np.ascontiguousarray(keys), CANDIDATES, metric=faiss.METRIC_INNER_PRODUCT)[1]
            for kind in arguments.kinds:
                # a graph takes a little more than linear time
                expected = 1.3 * built.get(kind, 0.0) * count
                row = {"keys": count, "kind": kind, "automatic": index_kind(count) == kind}
                if index_kind(count, kind) != kind:
                    continue
                if expected > arguments.build_limit:
                    rows.append(row | {"skipped": f"building would take about {expected:,.0f} s"})
                    continue
                print(f"{count:,} keys, {kind}", file=sys.stderr, flush=True)
                row |= one_kind(keys, asked, best, kind, Path(folder))
                built[kind] = row["build_s"] / count
                rows.append(row)
    return rows


def one_kind(keys: np.ndarray, asked: np.ndarray, best: np.ndarray, kind: Any, folder: Path) -> dict[str, Any]:
    """Builds and searches one index."""
    start = time.perf_counter()
    index = KeyIndex(keys, kind)
    row: dict[str, Any] = {
        "factory": factory(kind, *keys.shape),
        "build_s": time.perf_counter() - start,
        "index_bytes": index_bytes(index),
    }
    # an exact index of very many keys is slow, and its copy of them leaves no room for the one that is rebuilt
    huge = kind == "flat" and len(keys) > 200_000
    step = max(1, len(asked) // 40) if huge else 1
    few, wanted = asked[::step], best[::step]
    found, times = timed_search(index, few)
    row |= {f"recall_at_{k}": recall(found[:, :k], wanted[:, :k]) for k in (8, CANDIDATES)} | latencies(times)
    row["within"] = [selected(index, few, share) for share in (0.5, 0.1, 0.01)]
    row["removal"] = {} if huge else removal(index, few, folder)
    return row


def timed_search(index: KeyIndex, asked: np.ndarray, within: Selection | None = None) -> tuple[np.ndarray, list[float]]:
    """What each question finds, and its milliseconds."""
    found, times = [], []
    index.search(asked[:1], CANDIDATES, within)
    for vector in asked:
        start = time.perf_counter()
        found.append(index.search(vector[None], CANDIDATES, within)[0])
        times.append((time.perf_counter() - start) * 1e3)
    return np.array(found), times


def selected(index: KeyIndex, asked: np.ndarray, share: float) -> dict[str, Any]:
    """The same where a random share of the keys may be found."""
    mask = np.random.default_rng(1).random(len(index.embeddings)) < share
    within, some = Selection(mask), asked[:40]
    numbers = np.flatnonzero(mask)
    best = numbers[faiss.knn(some, index.embeddings[mask], 8, metric=faiss.METRIC_INNER_PRODUCT)[1]]
    found, times = timed_search(index, some, within)
    assert mask[found[found >= 0]].all()
    return {"share": share, "recall_at_8": recall(found[:, :8], best), **latencies(times)}


def removal(index: KeyIndex, asked: np.ndarray, folder: Path) -> dict[str, Any]:
    """Milliseconds of taking a thousand keys away, against making a flat index with ids of those that stay, in turns.

    `mask_ms`: in the open index, from the mask to the end of the first search without them; `open_ms`: opening the next
    version's index from the cache of the one before.
    """
    keys = index.embeddings
    if len(keys) < 3 * REMOVED:
        return {}
    gone = np.sort(np.random.default_rng(2).choice(len(keys), REMOVED, replace=False))
    mask = np.ones(len(keys), bool)
    mask[gone] = False

    def masked() -> None:
        index.search(asked[:1], CANDIDATES, index.select(mask.copy()))

    path = folder / "cache.faiss"
    if index.kind != "flat":
        save_index(Cached(index.index, fingerprints(keys), len(keys)), path, index.kind)
    kept = np.ascontiguousarray(keys[mask])

    def opened() -> None:
        open_index(kept, path, index.kind)

    def rebuilt() -> None:
        flat = faiss.IndexIDMap2(faiss.IndexFlatIP(keys.shape[1]))
        flat.add_with_ids(kept, np.flatnonzero(mask))

    times = in_turns({"mask": masked, "open": opened, "rebuild": rebuilt}, 5 if len(keys) < 500_000 else 3)
    within = Selection(mask)
    found, after = timed_search(index, asked, within)
    assert mask[found[found >= 0]].all()
    result: dict[str, Any] = {f"{name}_ms": statistics.median(some) for name, some in times.items()}
    result |= {f"{name}_spread": [min(some), max(some)] for name, some in times.items()}
    result["ratio"] = result["rebuild_ms"] / result["mask_ms"]
    return result | {"after_p50_ms": float(np.percentile(after, 50))}


def in_turns(jobs: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Milliseconds of each job, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in jobs}
    for _ in range(rounds):
        for name, job in jobs.items():
            start = time.perf_counter()
            job()
            times[name].append((time.perf_counter() - start) * 1e3)
    return times


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Mean share of the wanted that was found."""
    return float(np.mean([len(set(a) & set(b)) / len(b) for a, b in zip(found, wanted, strict=True)]))


def latencies(times: Sequence[float]) -> dict[str, float]:
    """Median and 99th percentile."""
    return {"p50_ms": float(np.percentile(times, 50)), "p99_ms": float(np.percentile(times, 99))}


def index_bytes(index: KeyIndex) -> int:
    """What the index takes besides the embeddings; a flat one copies them."""
    if index.kind == "flat":
        return int(index.embeddings.nbytes)
    return int(faiss.serialize_index(index.index).nbytes)


def show_scale(rows: Sequence[dict[str, Any]]) -> None:
    """The figures as a table."""
    print(
        f"{'keys':>9} {'kind':>6} {'recall@8':>9} {'@96':>6} {'p50 ms':>8} {'p99 ms':>8} {'build s':>8} {'MiB':>7} "
        f"{'1% p50':>7} {'remove ms':>10} {'rebuild ms':>11} {'open ms':>8}"
    )
    for row in rows:
        name = f"{row['keys']:9,} {row['kind'] + ('*' if row['automatic'] else ''):>6}"
        if "skipped" in row:
            print(f"{name} {row['skipped']}")
            continue
        gone = row["removal"]
        times = " ".join(
            f"{gone[key]:{width},.1f}" if gone else " " * (width - 1) + "-"
            for key, width in (("mask_ms", 10), ("rebuild_ms", 11), ("open_ms", 8))
        )
        print(
            f"{name} {row['recall_at_8']:9.3f} {row['recall_at_96']:6.3f} {row['p50_ms']:8.2f} {row['p99_ms']:8.2f} "
            f"{row['build_s']:8.1f} {row['index_bytes'] / 2**20:7.0f} {row['within'][2]['p50_ms']:7.2f} {times}"
        )
    print("* chosen for this number of keys")
