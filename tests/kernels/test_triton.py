"""The triton backend without a GPU: interpreted, and compiled for sm_80 and sm_90; how it is chosen and tuned."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from atomlora.errors import BackendError
from atomlora.kernels import FactorPool, sum_delta, sum_delta_many

pytest.importorskip("triton")

compiled_only = pytest.mark.skipif(os.environ.get("TRITON_INTERPRET") == "1", reason="this process interprets")


def test_interpreted_in_a_process_of_its_own() -> None:
    command = [Path(sys.executable).with_name("pytest"), "-q", Path(__file__).with_name("test_triton_interpreted.py")]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_on_the_cpu_it_refuses_by_name_and_stays_unloaded_by_itself() -> None:
    pool = FactorPool(torch.ones(2, 1, 3), torch.ones(2, 1, 4), torch.ones(2))
    slots = torch.zeros((1, 1), dtype=torch.int32)
    out = torch.zeros(1, 4)
    with pytest.raises(BackendError, match=r"'triton' cannot run this: the tensors are on cpu"):
        sum_delta(torch.ones(1, 3), pool, slots, torch.ones(1, 1), out=out, backend="triton")
    assert not out.any()
    code = (
        "import sys, torch\nfrom atomlora.kernels import FactorPool, available_backends, sum_delta, warm_up\n"
        "pool = FactorPool(torch.ones(2, 1, 3), torch.ones(2, 1, 4), torch.ones(2))\nwarm_up(torch.float32)\n"
        "sum_delta(torch.ones(1, 3), pool, torch.zeros((1, 1), dtype=torch.int32), torch.ones(1, 1),"
        " out=torch.zeros(1, 4))\navailable_backends()\nprint('triton' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_many_on_the_cpu_is_one_after_the_other() -> None:
    pools = [FactorPool(torch.randn(5, 4, 37), torch.randn(5, 4, width), torch.ones(5)) for width in (53, 20)]
    x, weights = torch.randn(9, 37), torch.rand(3, 2)
    slots = torch.tensor([[0, 3], [-1, 2], [4, 4]], dtype=torch.int32)
    rows = torch.tensor([8, 0, 4])
    outs = [torch.zeros(9, 53), torch.zeros(9, 20)]
    sum_delta_many(x, pools, slots, weights, outs=outs, rows=rows)
    for pool, out in zip(pools, outs, strict=True):
        expected = sum_delta(x, pool, slots, weights, out=torch.zeros_like(out), rows=rows)
        assert torch.equal(out, expected)


POINTERS = dict.fromkeys(("x", "y0", "y1", "y2", "gate", "up"), "X") | {"rows": "i64", "slots": "i32"}
POINTERS |= dict.fromkeys(("scaling0", "scaling1", "scaling2", "weights", "partial"), "fp32")
POINTERS |= dict.fromkeys(("A0", "A1", "A2", "Bt0", "Bt1", "Bt2"), "F")
WIDTHS = {"d_in", "d_out", "x_step", "a_step", "gate_step", "up_step"} | {
    f"{name}{i}" for name in ("d_out", "y_step", "bt_step") for i in range(3)
}


def compile_ahead(kernel: Any, capability: int, constants: dict[str, Any], ends: str, factors: str) -> Any:
    """The kernel compiled as a launch with these types would, widths and addresses being multiples of 16."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    constants = {name: value for name, value in constants.items() if name in kernel.arg_names}
    types = {"X": ends, "F": factors}
    signature, attributes = {}, {}
    for place, name in enumerate(kernel.arg_names):
        pointer = POINTERS.get(name)
        signature[name] = "constexpr" if name in constants else f"*{types.get(pointer, pointer)}" if pointer else "i32"
        if name not in constants and (pointer or name in WIDTHS):
            attributes[(place,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constexprs=constants, attrs=attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4})


@compiled_only
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize(
    ("rows", "rank", "k", "slices", "ends", "factors"),
    [(64, 4, 8, 2, "bf16", "bf16"), (512, 16, 8, 1, "bf16", "bf16"), (16, 64, 8, 3, "fp32", "i8")],
    ids=["decode, gate and up", "prompt", "int8 rank 64, three targets"],
)
def test_compiles_ahead_of_time(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capability: int,
    rows: int,
    rank: int,
    k: int,
    slices: int,
    ends: str,
    factors: str,
) -> None:
    """Down to machine code, with loads of 128 bits and without a single atomic."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    from atomlora.kernels import triton_gpu, triton_loops, tuning

    shape = tuning.Shape(rows, rank * k, 4096, (14336,) * slices, "")
    config = tuning.guess(shape)
    constants = {
        "RANK": rank,
        "SCALES": rank if factors == "i8" else 1,
        "HAS_ROWS": rows == 512,
        "SLICES": slices,
        "SPLIT": config.split,
        "BLOCK_T": config.rows,
        "BLOCK_J": k,
        "FACTOR": triton_gpu._TYPES[torch.bfloat16 if ends == "bf16" else torch.float32],
    }
    tiles = (
        (triton_loops.shrink, {"BLOCK_M": config.shrink_m, "BLOCK_K": config.shrink_k}),
        (triton_loops.expand, {"BLOCK_M": config.expand_m, "BLOCK_N": config.expand_n}),
        (triton_loops.expand_gated, {"BLOCK_M": config.expand_m, "BLOCK_N": config.expand_n, "GELU": rank == 64}),
    )
    for kernel, blocks in tiles[: 2 if rows == 512 else 3]:  # prompts do not go by expand_gated
        compiled = compile_ahead(kernel, capability, {**constants, **blocks}, ends, factors)
        assert compiled.asm["cubin"][:4] == b"\x7fELF"
        assert "ld.global.v4" in compiled.asm["ptx"]
        assert "atom." not in compiled.asm["ptx"]
        assert " red.global" not in compiled.asm["ptx"]
        assert ("mma" in compiled.asm["ptx"]) == (rows == 512)


def test_tuning_measures_once_and_remembers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path))
    from atomlora.kernels import tuning

    monkeypatch.setattr(tuning, "_known", {})
    shape = tuning.Shape(64, 32, 4096, (14336, 14336), "bfloat16 bfloat16")
    launched: list[Any] = []

    def note(kernel: str) -> Callable[..., None]:
        return lambda config, partial: launched.append((kernel, config))

    call = SimpleNamespace(workspace=lambda config: torch.zeros(1), shrink=note("shrink"), expand=note("expand"))
    times = iter([float(value) for value in np.random.default_rng(0).permutation(500) + 1.0])
    measured: dict[Any, float] = {}

    def measure(launch: Callable[[], None]) -> float:
        launch()
        measured[launched[-1]] = next(times)
        return measured[launched[-1]]

    assert tuning.known("Some GPU", shape) is None
    best = tuning.tune("Some GPU", shape, call, measure)
    fastest = min((config for kernel, config in measured if kernel == "expand"), key=lambda c: measured["expand", c])
    assert best == fastest
    assert len(measured) > 20
    assert len({config.split for kernel, config in measured if kernel == "expand"}) == 1
    assert tuning.known("Some GPU", shape) == best
    monkeypatch.setattr(tuning, "_known", {})  # another process
    assert tuning.known("Some GPU", shape) == best
    assert tuning.known("Other GPU", shape) is None
    file = tmp_path / "triton" / "some-gpu.json"
    assert list(json.loads(file.read_text())) == [shape.key]
    for damaged in ("{", "[1]", '{"a": 3}', '{"a": [1, 2]}'):
        file.write_text(damaged)
        monkeypatch.setattr(tuning, "_known", {})
        assert tuning.known("Some GPU", shape) is None
    monkeypatch.setenv("ATOMLORA_TUNE", "0")
    assert tuning.known("Some GPU", shape) == tuning.guess(shape)
