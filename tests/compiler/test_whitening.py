"""Second moments of adapted layers' inputs, and the coordinates in which A is learnt."""

import numpy as np
import pytest
import torch

from atomlora.compiler.adapters import StackedAdapters, target_modules
from atomlora.compiler.rows import IGNORED
from atomlora.compiler.trunk import Trunk, late_forward
from atomlora.compiler.whitening import MOMENT_ROWS, input_moments, whiteners


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


def test_a_is_drawn_and_stepped_in_white_coordinates(llama, targets):
    moments = [random_moment(t.d_in, seed) for seed, t in enumerate(targets)]
    whitening = whiteners(moments, 1.0)
    plain = StackedAdapters(llama, targets, 2, 3, 6.0)
    white = StackedAdapters(llama, targets, 2, 3, 6.0, whitening=whitening)
    for adapters in (plain, white):
        adapters.reset(1, "an atom")
    for a, b, s in zip(plain.a, white.a, whitening, strict=True):
        torch.testing.assert_close(a[1] @ s, b[1])

    # A = Z S: Adam on Z with Z's gradient, which is A's times S.
    z = [a[1].detach().clone().requires_grad_() for a in plain.a]
    adam = torch.optim.Adam(z, lr=1e-2, betas=(0.9, 0.99), eps=1e-8)
    generator = torch.Generator().manual_seed(3)
    for _ in range(3):
        for number, (leaf, s) in enumerate(zip(z, whitening, strict=True)):
            gradient = torch.randn(white.a[number].shape, generator=generator)
            white.a[number].grad = gradient
            leaf.grad = gradient[1] @ s
        adam.step()
        white.step(torch.tensor([1]), 1e-2, 3e-2)
    for number, (leaf, s) in enumerate(zip(z, whitening, strict=True)):
        torch.testing.assert_close(white.a[number][1], leaf @ s, rtol=1e-3, atol=1e-5)
