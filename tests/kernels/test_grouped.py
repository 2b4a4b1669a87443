"""The training form of the sum: its values and gradients against the definition's, and what gets none."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from atomlora.kernels import Frozen, grouped_delta
from atomlora.kernels.reference import delta


def numbers(*shape: int, seed: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.fixture
def call() -> dict[str, Tensor]:
    """Five rows of three columns over four adapters of rank 2; two rows share one, one adapter has no row."""
    return {
        "x": numbers(5, 3, 6, seed=1),
        "y": numbers(5, 3, 7, seed=2),
        "A": numbers(4, 2, 6, seed=3),
        "Bt": numbers(4, 2, 7, seed=4),
        "slots": torch.tensor([2, 0, 3, 0, 2]),
        "gains": numbers(5, seed=5),
    }


def frozen(dtype: torch.dtype = torch.float64) -> Frozen:
    slots = torch.tensor([[0, 1], [2, 2], [1, 0], [0, 0], [2, 1]])
    gains = numbers(5, 2, seed=8, dtype=dtype)
    gains[3] = 0
    return Frozen(numbers(3, 4, 6, seed=6, dtype=dtype), numbers(3, 4, 7, seed=7, dtype=dtype), slots, gains)


@pytest.mark.parametrize("others", [None, frozen()], ids=["alone", "with frozen"])
def test_gradients(call: dict[str, Tensor], others: Frozen | None) -> None:
    leaves = [call[name].requires_grad_() for name in ("x", "y", "A", "Bt")]
    assert torch.autograd.gradcheck(lambda *four: grouped_delta(*four, call["slots"], call["gains"], others), leaves)


@pytest.mark.parametrize("wanted", [("A", "Bt"), ("A",), ("Bt",), ("x",), ("y",), ("x", "Bt")], ids=" ".join)
def test_only_what_is_asked_for(call: dict[str, Tensor], wanted: tuple[str, ...]) -> None:
    every = {name: value.clone().requires_grad_(name in ("x", "y", "A", "Bt")) for name, value in call.items()}
    some = {name: value.clone().requires_grad_(name in wanted) for name, value in call.items()}
    for inputs in (every, some):
        grouped_delta(**inputs, frozen=frozen()).square().sum().backward()
    for name, value in some.items():
        assert (value.grad is not None) == (name in wanted)
        if value.grad is not None:
            torch.testing.assert_close(value.grad, every[name].grad)
    assert not every["A"].grad[1].any()  # no row mounts it


def test_equals_the_definition(call: dict[str, Tensor]) -> None:
    others = frozen()
    out = grouped_delta(**call, frozen=others)
    for column in range(3):
        x, y = call["x"][:, column], call["y"][:, column]
        own = delta(x, call["A"], call["Bt"], torch.ones(4), call["slots"][:, None], call["gains"][:, None])
        rest = delta(x, others.A, others.Bt, torch.ones(3), others.slots, others.gains)
        torch.testing.assert_close(out[:, column], y + own + rest)
    assert torch.equal(call["y"], numbers(5, 3, 7, seed=2))
