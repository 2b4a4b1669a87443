"""A random model with factors to mount on it, and what they must come to."""

import copy

import torch
from tiny_base import mlp_targets, tiny_llama

from atomlora.kernels import AdapterPool
from atomlora.runtime.composition import composition
from atomlora.runtime.mount import pool_targets

VOCABULARY, RANK, ALPHA = 97, 3, 6.0
SCALING = ALPHA / RANK
TARGETS = mlp_targets(1, 2)


def make_model():
    return tiny_llama(VOCABULARY, bos_token_id=1, eos_token_id=None)


def make_factors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn((RANK, t.d_in), generator=generator) * 0.3,
            torch.randn((RANK, t.d_out), generator=generator) * 0.3,
        )
        for t in TARGETS
    ]


FACTORS = {name: make_factors(seed) for seed, name in enumerate("abcd", start=10)}


def make_pool():
    return AdapterPool(pool_targets(TARGETS), capacity=6, rank=RANK, dtype=torch.float32)


def compose(pool, rows, answer_start):
    """rows: one {atom name: weight} per request row."""
    slots = [pool.acquire(list(row), lambda name: (FACTORS[name], SCALING)) for row in rows]
    return composition(slots, [list(row.values()) for row in rows], answer_start)


def merged(model, atoms):
    """A copy of the model with W + sum w s B A."""
    dense = copy.deepcopy(model)
    for name, weight in atoms.items():
        for target, (a, bt) in zip(TARGETS, FACTORS[name], strict=True):
            module = dense.model.layers[target.layer].mlp.get_submodule(target.module)
            module.weight += weight * SCALING * bt.T @ a
    return dense


def prompt(length, seed=0, rows=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(2, VOCABULARY, (rows, length), generator=generator)


def two_pass(model, atoms, ids, start):
    """The definition of answer scope: K/V of columns before `start` from the bare base, the rest from dense
    merging."""
    cache = model(ids[:, :start], use_cache=True).past_key_values
    return merged(model, atoms)(ids[:, start:], past_key_values=cache).logits


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def left_pad(prompts):
    width = max(len(p) for p in prompts)
    ids = torch.stack([torch.cat([torch.zeros(width - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(p) for p in prompts]).long()
    return ids, mask


def decode(model, ids, steps=6, **settings):
    return model.generate(ids, max_new_tokens=steps, do_sample=False, **settings)
