"""The lab against the runtime: the same mixture, the whole model, token by token."""

import numpy as np
import pytest
import torch

from atomlora.interference.lab import Stack, frozen_pool, wordings
from atomlora.kernels import AdapterPool
from atomlora.runtime.composition import composition
from atomlora.runtime.mount import Mount, pool_targets
from atomlora.training.rows import IGNORED
from atomlora.training.trunk import Example

STACKS = (Stack((), ()), Stack.at_one(0), Stack((0, 3), (1.0, 0.3)), Stack((2, 4, 1), (0.5, 1.0, 0.2)))


@pytest.fixture
def whole_model(base, lab, records):
    """whole(example, stack) -> the model's logits (T, V) at the answer's columns, atoms mounted by the runtime."""
    pool = AdapterPool(pool_targets(lab.targets), capacity=8, rank=4, dtype=torch.float32)

    def load(number):
        from atomlora.atom import split_record

        atom = lab.atoms[int(number)]
        flat = (records[atom.id].astype(np.uint32) << 16).view(np.float32)
        return split_record(flat, atom.rank, lab.targets), atom.scaling

    def run(example, stack):
        with Mount(base.model, lab.targets, pool):
            slots = pool.acquire([str(number) for number in stack.atoms], load)
            ids = torch.tensor([[*example.prompt, *example.answer[:-1]]])
            start = len(example.prompt) - 1
            request = composition([slots], [list(stack.weights)], [start], pool=pool)
            with torch.no_grad():
                logits = base.model(ids, composition=request).logits[0, start:]
            pool.release([str(number) for number in stack.atoms])
        return logits

    return run


def examples_of(lab):
    return [Example.asked(lab.base.tokenizer, *wordings(atom)[0]) for atom in lab.atoms]


@pytest.mark.parametrize("stack", STACKS)
def test_outcome_is_what_the_composed_model_says(lab, whole_model, stack):
    examples = examples_of(lab)
    outcome = lab.outcome(lab.rows(examples), range(len(examples)), [stack] * len(examples))
    for number, example in enumerate(examples):
        logits = whole_model(example, stack)
        answer = torch.tensor(example.answer)
        nll = torch.nn.functional.cross_entropy(logits, answer)
        assert float(outcome.nll[number]) == pytest.approx(float(nll), abs=2e-4)
        assert bool(outcome.passed[number]) == bool((logits.argmax(-1) == answer).all())


def test_rows_of_one_call_may_mount_different_atoms_in_any_order(lab):
    examples = examples_of(lab)
    rows = lab.rows(examples)
    picks = [4, 0, 0, 2, 1, 3]
    stacks = [STACKS[number % 4] for number in range(len(picks))]
    together = lab.outcome(rows, picks, stacks)
    for at, (pick, stack) in enumerate(zip(picks, stacks, strict=True)):
        assert float(lab.outcome(rows, [pick], [stack]).nll[0]) == pytest.approx(float(together.nll[at]), abs=1e-5)


def test_divergence_is_the_kl_of_whole_distributions(lab):
    examples = examples_of(lab)
    rows = lab.rows(examples, with_final=True)
    real = rows.targets != IGNORED
    mixed = lab.hidden(rows, [Stack.at_one(1)] * len(examples))[real]
    found = lab.divergence(mixed, rows.final[real])
    base, other = (torch.log_softmax(lab.head.full_logits(x), -1) for x in (rows.final[real], mixed))
    assert torch.allclose(found, (base.exp() * (base - other)).sum(-1), atol=1e-5)
    assert float(lab.divergence(rows.final[real], rows.final[real]).abs().max()) < 1e-5
    assert float(found.min()) > 0


def test_pool_scales_and_fills_up_smaller_ranks(lab, items, records):
    pool = frozen_pool(*zip(*items, strict=True), lab.targets, "cpu")
    atom, record = items[2]
    size = atom.rank * lab.targets[0].d_in
    a = (record[:size].astype(np.uint32) << 16).view(np.float32).reshape(atom.rank, -1)
    bt = (record[size : size + atom.rank * lab.targets[0].d_out].astype(np.uint32) << 16).view(np.float32)
    delta = atom.scaling * bt.reshape(atom.rank, -1).T @ a
    found_a, found_bt = (factor[2].numpy() for factor in pool.factors[0])
    assert found_a.shape[0] == 4
    assert np.allclose(pool.scaling * found_bt.T @ found_a, delta, atol=1e-5)
