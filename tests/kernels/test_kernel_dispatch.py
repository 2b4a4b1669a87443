"""Which backend runs: what is automatic falls back, what is asked for by name runs or raises."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
from types import SimpleNamespace

import pytest
import torch

from atomlora.errors import BackendError
from atomlora.kernels import FactorPool, available_backends, dispatch, sum_delta, use_backend, warm_up


@pytest.fixture
def call() -> dict[str, object]:
    pool = FactorPool(torch.ones(2, 1, 3), torch.ones(2, 1, 4), torch.ones(2))
    slots = torch.zeros((1, 1), dtype=torch.int32)
    return {"x": torch.ones(1, 3), "pool": pool, "slots": slots, "weights": torch.ones(1, 1)}


def test_auto_prefers_numba_on_cpu(call: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dispatch, "_loaded", {
        "numba": SimpleNamespace(run=lambda *_: asked.append("numba")),
        "reference": SimpleNamespace(run=lambda *_: asked.append("reference")),
    })  # fmt: skip
    sum_delta(**call, out=torch.zeros(1, 4))
    sum_delta(**call, out=torch.zeros(1, 4), backend="reference")
    assert asked == ["numba", "reference"]


def test_auto_falls_back_and_says_so_once(
    call: dict[str, object], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatch, "_told", set())
    call["x"] = torch.ones(1, 3, dtype=torch.bfloat16)
    out = torch.zeros(1, 4, dtype=torch.bfloat16)
    with caplog.at_level(logging.INFO, logger=dispatch.__name__):
        sum_delta(**call, out=out)
        sum_delta(**call, out=out)
    assert out.tolist() == [[6.0] * 4]
    assert [record.message for record in caplog.records] == [
        "kernel backend numba passes: activations are torch.bfloat16 and torch.bfloat16, not float32"
    ]


def test_a_named_backend_that_cannot_run_raises_and_touches_nothing(call: dict[str, object]) -> None:
    out = torch.zeros(1, 4, dtype=torch.float64)
    with pytest.raises(BackendError, match=r"'numba' cannot run this: .*float64"):
        sum_delta(**call, out=out, backend="numba")
    assert not out.any()
    with pytest.raises(BackendError, match="unknown"):
        sum_delta(**call, out=out, backend="fast")
    pool = call["pool"]
    assert isinstance(pool, FactorPool)
    call["pool"] = pool._replace(A=torch.ones(1, 3, 2).permute(2, 0, 1))
    with pytest.raises(BackendError, match="contiguous"):
        sum_delta(**call, out=torch.zeros(1, 4), backend="numba")
    assert sum_delta(**call, out=torch.zeros(1, 4)).tolist() == [[3.0] * 4]


def test_numba_absent(
    call: dict[str, object], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent() -> dispatch.Backend:
        raise ImportError("no numba here")

    monkeypatch.setattr(dispatch, "_loaded", {})
    monkeypatch.setattr(dispatch, "_missing", {})
    monkeypatch.setitem(dispatch._LOADERS, "numba", absent)
    out = torch.zeros(1, 4)
    sum_delta(**call, out=out)
    sum_delta(**call, out=out)
    warm_up()
    assert out.tolist() == [[6.0] * 4]
    assert available_backends() == ("reference",)
    assert len([record for record in caplog.records if "cannot be loaded" in record.message]) == 1
    with pytest.raises(BackendError, match="no numba here"):
        sum_delta(**call, out=out, backend="numba")


def test_override(call: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(dispatch, "_loaded", {
        "numba": SimpleNamespace(run=lambda *_: asked.append("numba")),
        "reference": SimpleNamespace(run=lambda *_: asked.append("reference")),
    })  # fmt: skip
    with use_backend("reference"):
        sum_delta(**call, out=torch.zeros(1, 4))
        sum_delta(**call, out=torch.zeros(1, 4), backend="numba")
    sum_delta(**call, out=torch.zeros(1, 4))
    assert asked == ["reference", "numba", "numba"]
    with pytest.raises(BackendError, match="unknown"), use_backend("fast"):
        pass


def test_environment_override() -> None:
    code = "from atomlora.kernels import dispatch; print(dispatch._forced)"
    environment = {**os.environ, "ATOMLORA_KERNEL": "reference"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "reference"


def test_import_is_light() -> None:
    code = "import sys, atomlora.kernels; print([m for m in ('torch', 'numba', 'numpy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


PARALLEL_CALL = """
import os, sys, torch
from atomlora.kernels import FactorPool, sum_delta
torch.set_num_threads(2)
pool = FactorPool(torch.ones(4, 16, 600), torch.ones(4, 16, 600), torch.ones(4))
slots = torch.zeros((33, 4), dtype=torch.int32)

def call():
    out = torch.zeros(33, 600)
    sum_delta(torch.ones(33, 600), pool, slots, torch.ones(33, 4), out=out, backend="numba")
    return out[7, 5].item()

"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_still_answers() -> None:
    code = PARALLEL_CALL + (
        "call()\nchild = os.fork()\nif child == 0:\n    os._exit(0 if call() == 4 * 16 * 600 else 1)\n"
        "sys.exit(os.waitpid(child, 0)[1])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_no_folder_for_compiled_code() -> None:
    code = (
        "import numba.core.caching as caching\n"
        "caching.CompileResultCacheImpl._locator_classes = []\n"
        "from atomlora.kernels import available_backends, numba_loops\n"
        "assert not numba_loops.serial.stats.cache_path\n"
        "print(available_backends()[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "numba", done.stderr


def test_many_threads_at_once() -> None:
    """Concurrent calls, each large enough to split, on outputs of their own."""
    warm_up(torch.float32)
    generator = torch.Generator().manual_seed(0)
    pool = FactorPool(
        torch.randn(8, 16, 520, generator=generator),
        torch.randn(8, 16, 520, generator=generator),
        torch.ones(8),
    )
    x = torch.randn(16, 520, generator=generator)
    slots = torch.arange(128, dtype=torch.int32).reshape(16, 8) % 8
    weights = torch.rand(16, 8, generator=generator)
    expected = sum_delta(x, pool, slots, weights, out=torch.zeros(16, 520), backend="reference")
    wrong: list[int] = []

    def work(number: int) -> None:
        for _ in range(5):
            result = sum_delta(x, pool, slots, weights, out=torch.zeros(16, 520), backend="numba")
            if not torch.allclose(result, expected, rtol=1e-4, atol=1e-1):
                wrong.append(number)

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        torch.set_num_threads(before)
    assert not wrong
