"""Stacked factors: what is mounted, how it is started, stepped and stored."""

import numpy as np
import pytest
import torch

from atomlora.atom import record_size, split_record
from atomlora.training.adapters import Mixture, StackedAdapters, pool_from_records, target_modules

RANK, ALPHA = 4, 8.0


@pytest.fixture
def adapters(llama, targets):
    """Three slots of random factors over a frozen pool of two atoms."""
    random = np.random.default_rng(0)
    records = [bits(random.normal(0, 0.3, record_size(RANK, targets))) for _ in range(2)]
    made = StackedAdapters(llama, targets, 3, RANK, ALPHA, pool_from_records(records, RANK, 2 * ALPHA, targets, "cpu"))
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    made.records = records
    return made


def bits(values):
    return torch.tensor(values, dtype=torch.bfloat16).view(torch.uint16).numpy()


def wide(record):
    return (record.astype(np.uint32) << 16).view(np.float32)


def mixture(own, weights, others=None, other_weights=None):
    return Mixture(
        torch.tensor(own),
        torch.tensor(weights),
        None if others is None else torch.tensor(others),
        None if other_weights is None else torch.tensor(other_weights),
    )


def inputs(targets, rows=4, columns=3):
    generator = torch.Generator().manual_seed(7)
    return [torch.randn(rows, columns, t.d_in, generator=generator) for t in targets]


def test_mounted_equals_dense_deltas(llama, targets, adapters):
    own, weights = [2, 0, 0, 1], [1.0, 0.7, 0.0, 0.25]
    others, other_weights = [[1, 0], [0, 0], [1, 1], [0, 1]], [[0.5, 0.0], [0.3, 0.4], [1.0, 0.2], [0.0, 0.0]]
    pool = [split_record(wide(record), RANK, targets) for record in adapters.records]
    for at, (module, x) in enumerate(zip(target_modules(llama, targets), inputs(targets), strict=True)):
        with torch.no_grad(), adapters.mounted(mixture(own, weights, others, other_weights)):
            mounted = module(x)
        for row in range(4):
            dense = weights[row] * 2.0 * adapters.bt[at][own[row]].T @ adapters.a[at][own[row]]
            for other, weight in zip(others[row], other_weights[row], strict=True):
                a, bt = (torch.from_numpy(f.copy()) for f in pool[other][at])
                dense = dense + weight * 4.0 * bt.T @ a
            expected = x[row] @ (module.weight + dense).T
            torch.testing.assert_close(mounted[row], expected.detach(), rtol=1e-4, atol=1e-4)


def test_unmounted_again_also_after_an_error(llama, targets, adapters):
    module, x = target_modules(llama, targets)[0], inputs(targets)[0]
    before = module(x)

    def fail():
        with adapters.mounted(mixture([0] * 4, [1.0] * 4)):
            assert not torch.equal(module(x), before)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail()
    assert torch.equal(module(x), before)


def test_only_mounted_slots_get_gradients(llama, targets, adapters):
    module, x = target_modules(llama, targets)[0], inputs(targets)[0]
    with adapters.mounted(mixture([0, 2, 2, 0], [1.0] * 4, [[0]] * 4, [[1.0]] * 4)):
        module(x).square().sum().backward()
    norms = adapters.bt[0].grad.abs().sum((1, 2))
    assert norms[0] > 0
    assert norms[2] > 0
    assert norms[1] == 0
    assert not any(tensor.requires_grad for pair in adapters.pool.factors for tensor in pair)


def test_reset_follows_the_identity(llama, targets):
    first, second = (StackedAdapters(llama, targets, n, RANK, ALPHA) for n in (2, 5))
    first.reset(1, "a" * 64)
    second.reset(4, "a" * 64)
    second.reset(0, "b" * 64)
    for here, there in zip(first.a, second.a, strict=True):
        assert torch.equal(here[1], there[4])
        assert not torch.allclose(there[0], there[4])
        assert 0.3 < float(here[1].detach().square().sum(1).mean()) < 3  # rows of length about 1
    assert all(not bt[1].any() for bt in first.bt)


def test_steps_are_adams_with_a_clock_for_each_slot(llama, targets):
    adapters = StackedAdapters(llama, targets, 3, RANK, ALPHA)
    for slot in range(3):
        adapters.reset(slot, f"atom {slot}")
    generator = torch.Generator().manual_seed(5)
    # Slot 2 starts two steps later, on what another atom left in it.
    plan = [[0, 2], [0, 2], [0, 1], [0, 1, 2], [1, 2]]
    references = {}
    for step, active in enumerate(plan):
        if step == 2:
            adapters.reset(2, "newcomer")
            references.pop(2)
        for slot in active:
            if slot not in references:
                copies = [p[slot].detach().clone().requires_grad_() for p in adapters.parameters]
                half = len(copies) // 2
                groups = [{"params": copies[:half], "lr": 1e-2}, {"params": copies[half:], "lr": 3e-2}]
                references[slot] = copies, torch.optim.Adam(groups, betas=(0.9, 0.99), eps=1e-8)
        for at, parameter in enumerate(adapters.parameters):
            parameter.grad = torch.randn(parameter.shape, generator=generator)
            for slot in active:
                references[slot][0][at].grad = parameter.grad[slot].clone()
        for slot in active:
            references[slot][1].step()
        adapters.step(torch.tensor(active), 1e-2, 3e-2)
        assert all(parameter.grad is None for parameter in adapters.parameters)
        for slot, (copies, _) in references.items():
            for parameter, copy in zip(adapters.parameters, copies, strict=True):
                torch.testing.assert_close(parameter[slot], copy, rtol=1e-4, atol=1e-6)
    assert adapters.steps.tolist() == [4, 3, 2]


def test_decay_scales_the_rate_of_each_atom(llama, targets):
    adapters = StackedAdapters(llama, targets, 2, RANK, ALPHA)
    adapters.bt[0].grad = torch.ones_like(adapters.bt[0])
    adapters.step(torch.tensor([0, 1]), 1.0, 0.1, decay=torch.tensor([1.0, 0.5]))
    torch.testing.assert_close(adapters.bt[0][0], torch.full_like(adapters.bt[0][0], -0.1))
    torch.testing.assert_close(adapters.bt[0][1], torch.full_like(adapters.bt[0][1], -0.05))


def test_record_is_split_into_the_factors_as_stored(targets, adapters):
    adapters.round_to_storage(torch.tensor([1]))
    record = adapters.record(1)
    assert record.dtype == np.uint16
    assert record.shape == (record_size(RANK, targets),)
    for (a, bt), own_a, own_bt in zip(split_record(wide(record), RANK, targets), adapters.a, adapters.bt, strict=True):
        np.testing.assert_array_equal(a, own_a[1].detach().numpy())
        np.testing.assert_array_equal(bt, own_bt[1].detach().numpy())


def test_rounding_changes_the_named_slots_only(adapters):
    before = [parameter.detach().clone() for parameter in adapters.parameters]
    adapters.round_to_storage(torch.tensor([0, 2]))
    for parameter, old in zip(adapters.parameters, before, strict=True):
        assert torch.equal(parameter[1], old[1])
        assert not torch.equal(parameter[0], old[0])
        assert torch.equal(parameter[2], old[2].bfloat16().float())


def test_pool_holds_the_records(targets, adapters):
    assert len(adapters.pool) == 2
    for number, record in enumerate(adapters.records):
        for (a, bt), (pool_a, pool_bt) in zip(
            split_record(wide(record), RANK, targets), adapters.pool.factors, strict=True
        ):
            np.testing.assert_array_equal(a, pool_a[number].numpy())
            np.testing.assert_array_equal(bt, pool_bt[number].numpy())
