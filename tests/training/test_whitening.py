"""Second moments of adapted layers' inputs, and the coordinates in which A is learnt."""

import numpy as np
import pytest
import torch
from tiny_base import INNER

from atomlora.training import whitening
from atomlora.training.adapters import StackedAdapters, target_modules
from atomlora.training.moments import MOMENT_ROWS, input_moments
from atomlora.training.rows import IGNORED
from atomlora.training.trunk import Trunk, late_forward
from atomlora.training.whitening import LowRank, Sketch, added, mean_of, whitened, whiteners


def random_moment(size, seed=0):
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(3 * size, size)) * np.geomspace(1, 1e-3, size)
    return torch.tensor(inputs.T @ inputs / len(inputs), dtype=torch.float32)


def test_moments_are_those_of_the_answers_inputs(llama, targets, make_examples):
    examples = make_examples(MOMENT_ROWS + 5)
    trunk = Trunk(llama, 1, (), 0)
    found = input_moments(trunk, targets, examples)
    rows = trunk.rows(examples, [0] * len(examples))
    inputs = {}
    modules = target_modules(llama, targets)
    handles = [
        m.register_forward_pre_hook(lambda _m, args, i=i: inputs.update({i: args[0]})) for i, m in enumerate(modules)
    ]
    with torch.no_grad():
        late_forward(llama, 1, rows)
    for handle in handles:
        handle.remove()
    real = rows.targets != IGNORED
    for index, moment in enumerate(found):
        wanted = inputs[index][real].double()
        torch.testing.assert_close(moment.double(), wanted.T @ wanted / len(wanted), rtol=1e-3, atol=1e-5)
    assert found[0] is found[1]  # gate and up read the same input
    assert found[0] is not found[3]
    assert not any(module._forward_pre_hooks for module in modules)


@pytest.mark.parametrize("damping", [0.01, 1.0, 100.0])
def test_whitener_is_the_damped_inverse_root(damping):
    moment = random_moment(24)
    (white,) = whiteners([moment], damping)
    torch.testing.assert_close(white, white.T)
    # As strong an answer to inputs at large, and S^-2 is C with a damped diagonal, up to one factor.
    assert float((white @ moment @ white).trace()) == pytest.approx(float(moment.trace()), rel=1e-3)
    damped = moment.double() / moment.double().trace() * 24 + damping * torch.eye(24)
    ratio = white.double() @ white.double() @ damped
    torch.testing.assert_close(ratio, ratio[0, 0] * torch.eye(24, dtype=torch.float64), rtol=1e-3, atol=1e-3)


def matrix(whitener):
    """S, whatever its form."""
    return whitened(torch.eye(len(whitener if isinstance(whitener, torch.Tensor) else whitener.directions)), whitener)


def test_wide_inputs_are_sketched_and_whitened_nearly_alike(monkeypatch):
    """All energy but a thousandth lies in as many directions as are kept: the sketch of batches must find them."""
    random = np.random.default_rng(1)
    scales = np.concatenate([np.geomspace(30, 1, 12), np.full(52, 0.02)])
    turned = np.linalg.qr(random.normal(size=(64, 64)))[0]
    inputs = torch.tensor(random.normal(size=(900, 64)) * scales @ turned, dtype=torch.float32)
    dense = whiteners([mean_of(added(None, inputs), 900)], 1.0)[0]
    monkeypatch.setattr(whitening, "WIDEST_DENSE", 63)
    monkeypatch.setattr(whitening, "DIRECTIONS", 16)
    total = None
    for batch in inputs.split(250):
        total = added(total, batch)
    assert isinstance(total, Sketch)
    assert len(total.rows) == 16
    (white,) = whiteners([mean_of(total, 900)], 1.0)
    assert isinstance(white, LowRank)
    assert (matrix(white) - dense).norm() < 0.01 * dense.norm()
    assert (matrix(white) - torch.eye(64)).norm() > 0.3 * dense.norm()
    moment = inputs.T @ inputs / 900  # as strong an answer to inputs at large as without
    strength = float((matrix(white) @ moment @ matrix(white)).trace() / moment.trace())
    assert strength == pytest.approx(1, rel=0.01)


def test_fewer_inputs_than_directions_are_told_exactly(monkeypatch):
    inputs = torch.tensor(np.random.default_rng(2).normal(size=(5, 40)), dtype=torch.float32)
    (dense,) = whiteners([mean_of(added(None, inputs), 5)], 1.0)
    monkeypatch.setattr(whitening, "WIDEST_DENSE", 0)
    (white,) = whiteners([mean_of(added(added(None, inputs[:3]), inputs[3:]), 5)], 1.0)
    assert white.directions.shape == (40, 5)
    torch.testing.assert_close(matrix(white), dense, rtol=1e-3, atol=1e-4)


def test_whitened_inputs_answer_evenly_where_damping_is_small():
    moment = random_moment(16)
    (white,) = whiteners([moment], 1e-6)
    values = torch.linalg.eigvalsh(white @ moment @ white)[-8:]
    assert float(values.max() / values.min()) < 1.1


def test_equal_moments_share_a_whitener():
    moment, other = random_moment(8), random_moment(8, 1)
    first, second, third = whiteners([moment, moment, other], 1.0)
    assert first is second
    assert not torch.allclose(first, third)


@pytest.mark.parametrize("widest", [whitening.WIDEST_DENSE, INNER - 1], ids=["dense", "wide ones sketched"])
def test_a_is_drawn_and_stepped_in_white_coordinates(llama, targets, monkeypatch, widest):
    monkeypatch.setattr(whitening, "WIDEST_DENSE", widest)
    random = np.random.default_rng(0)
    inputs = [torch.tensor(random.normal(size=(60, t.d_in)), dtype=torch.float32) for t in targets]
    made = whiteners([mean_of(added(None, rows), 60) for rows in inputs], 1.0)
    assert any(isinstance(one, LowRank) for one in made) == (widest < INNER)
    plain = StackedAdapters(llama, targets, 2, 3, 6.0)
    white = StackedAdapters(llama, targets, 2, 3, 6.0, whitening=made)
    for adapters in (plain, white):
        adapters.reset(1, "an atom")
    for a, b, s in zip(plain.a, white.a, map(matrix, made), strict=True):
        torch.testing.assert_close(a[1] @ s, b[1])

    # A = Z S: Adam on Z with Z's gradient, which is A's times S.
    z = [a[1].detach().clone().requires_grad_() for a in plain.a]
    adam = torch.optim.Adam(z, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for number, (leaf, s) in enumerate(zip(z, map(matrix, made), strict=True)):
            gradient = torch.randn(white.a[number].shape, generator=generator)
            white.a[number].grad = gradient
            leaf.grad = gradient[1] @ s
        adam.step()
        white.step(torch.tensor([1]), 1e-2, 3e-2)
    for number, (leaf, s) in enumerate(zip(z, map(matrix, made), strict=True)):
        torch.testing.assert_close(white.a[number][1], leaf @ s, rtol=1e-3, atol=1e-5)
