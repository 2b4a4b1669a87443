# mypy: disable-error-code="import-untyped,no-untyped-call"
"""Launch configurations of the Triton kernels: guessed, measured once per shape and device, and remembered.

What was measured is kept in memory and in `$ATOMLORA_CACHE/triton/DEVICE.json` (else the user's cache folder), so
that later processes measure nothing. ATOMLORA_TUNE=0 keeps to guesses.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import triton

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_known: dict[str, dict[str, Config]] = {}


class Shape(NamedTuple):
    """What a configuration is chosen for; `rows` is a bucket (`bucket`), `rank_rows` is k * r."""

    rows: int
    rank_rows: int
    d_in: int
    d_out: tuple[int, ...]
    dtypes: str

    @property
    def key(self) -> str:
        widths = "+".join(str(width) for width in self.d_out)
        return f"{triton.__version__} {self.dtypes} {self.rows}x{self.rank_rows} {self.d_in}->{widths}"


class Config(NamedTuple):
    """Rows a tile, parts of d_in, then the tiles of the two kernels and their warps."""

    rows: int
    split: int
    shrink_m: int
    shrink_k: int
    shrink_warps: int
    expand_m: int
    expand_n: int
    expand_warps: int


def bucket(rows: int) -> int:
    """The power of two at or above `rows`: T is bucketed, so few shapes are ever measured."""
    return 1 << max(0, rows - 1).bit_length()


def guess(shape: Shape) -> Config:
    """A fair configuration by size alone: enough programs to fill some 130 multiprocessors twice."""
    tile = _tile(shape.rank_rows, 16)
    programs = shape.rows * -(-shape.rank_rows // tile) * len(shape.d_out)
    split = 1
    while split < 8 and programs * split < 264 and shape.d_in // (2 * split) >= 512:
        split *= 2
    if shape.rows >= 256:  # prompts: tiles of rows that share their slots
        return Config(16, 1, max(16, tile), 64, 4, max(16, tile), 128, 4)
    return Config(1, split, tile, 256, 4, _tile(shape.rank_rows, 32), 256, 4)


def interpreted(shape: Shape) -> Config:
    """Small tiles that reach every branch, for Triton's interpreter."""
    rows = 16 if shape.rows >= 64 else 1
    tile = 16
    return Config(rows, 2, tile, 32, 1, tile, 32, 1)


def known(device: str, shape: Shape) -> Config | None:
    """What was measured for this shape on this device, in this process or an earlier one."""
    if os.environ.get("ATOMLORA_TUNE") == "0":
        return guess(shape)
    with _lock:
        if device not in _known:
            _known[device] = _read(_path(device))
        return _known[device].get(shape.key)


def tune(device: str, shape: Shape, call: Any, milliseconds: Callable[..., float] | None = None) -> Config:
    """Measure candidates on `call` (a `triton_gpu.Call` with outputs of its own) and remember the fastest.

    shrink is tuned first, by itself, then expand with its split. Never call it while a stream captures."""
    measure = milliseconds or (lambda launch: triton.testing.do_bench(launch, warmup=5, rep=20))
    best = guess(shape)
    best = _fastest(_shrinks(shape, best), lambda config, partial: call.shrink(config, partial), call, measure, best)
    best = _fastest(_expands(shape, best), lambda config, partial: call.expand(config, partial), call, measure, best)
    with _lock:
        configs = _known.setdefault(device, _read(_path(device)))
        configs[shape.key] = best
        _write(_path(device), configs)
    return best


def _fastest(
    candidates: list[Config],
    launch: Callable[[Config, Any], None],
    call: Any,
    measure: Callable[..., float],
    otherwise: Config,
) -> Config:
    times: dict[Config, float] = {}
    for config in candidates:
        partial = call.workspace(config).zero_()
        try:
            times[config] = measure(lambda config=config, partial=partial: launch(config, partial))
        except triton.runtime.errors.OutOfResources:
            continue
    return min(times, key=lambda config: times[config]) if times else otherwise


def _shrinks(shape: Shape, base: Config) -> list[Config]:
    tiles = dict.fromkeys(_tile(shape.rank_rows, most) for most in (8, 16, 32, 64))
    splits = [split for split in (1, 2, 4, 8) if split == 1 or shape.d_in // split >= 256]
    found = [
        base._replace(rows=1, shrink_m=m, shrink_k=width, split=split, shrink_warps=warps)
        for m in tiles
        for width, warps in ((128, 2), (256, 4), (512, 4))
        for split in splits
        if m * width <= 16384
    ]
    if shape.rows >= 16:
        found += [
            base._replace(
                rows=16, shrink_m=max(16, m), expand_m=max(16, base.expand_m), shrink_k=64, split=split, shrink_warps=4
            )
            for m in tiles
            for split in splits
        ]
    return list(dict.fromkeys(found))


def _expands(shape: Shape, base: Config) -> list[Config]:
    least = 16 if base.rows > 1 else 1
    tiles = dict.fromkeys(max(least, _tile(shape.rank_rows, most)) for most in (8, 16, 32, 64))
    return [
        base._replace(expand_m=m, expand_n=width, expand_warps=warps)
        for m in tiles
        for width, warps in ((64, 2), (128, 4), (256, 4), (512, 8))
        if m * width <= 16384
    ]


def _tile(rank_rows: int, most: int) -> int:
    return min(most, bucket(rank_rows))


def _path(device: str) -> Path:
    cache = os.environ.get("ATOMLORA_CACHE")
    folder = Path(cache) if cache else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atomlora"
    return folder / "triton" / (re.sub(r"\W+", "-", device).strip("-").lower() + ".json")


def _read(path: Path) -> dict[str, Config]:
    try:
        return {key: Config(*values) for key, values in json.loads(path.read_text(encoding="utf-8")).items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        _log.warning("%s holds no launch configurations (%s); they are measured again", path, error)
        return {}


def _write(path: Path, configs: dict[str, Config]) -> None:
    """Keep what this and other processes measured; a cache that cannot be written is no failure."""
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps({**_read(path), **configs}, indent=1), encoding="utf-8")
        temporary.replace(path)
