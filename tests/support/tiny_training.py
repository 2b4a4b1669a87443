"""Fixtures of everything that trains: a tiny random Llama for parts that see token ids, and its examples."""

import numpy as np
import pytest
import torch
from tiny_base import mlp_targets, tiny_llama

from atomlora.training.pace import Pace
from atomlora.training.trunk import Example

TARGETS = mlp_targets(1, 2, prefix="mlp.")


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_pace(request, monkeypatch):
    """Settings of tests are chosen for the tiny bases that they train; `real_pace` leaves rates to the base."""
    if "real_pace" not in request.fixturenames:
        monkeypatch.setattr("atomlora.training.trainer.pace_of", lambda model: Pace())


@pytest.fixture
def real_pace():
    """Learning rates as the base calls for them."""


def sure_llama(vocabulary):
    """So narrow a hidden state could not make any of 1300 tokens likely: its length bounds the logits."""
    model = tiny_llama(vocabulary, max_position_embeddings=256)
    model.model.norm.weight.fill_(2.5)
    return model


@pytest.fixture(scope="session")
def llama():
    """A random Llama of three layers whose vocabulary is larger than the shared candidates."""
    return sure_llama(1300)


@pytest.fixture(scope="session")
def targets():
    """Every MLP layer of the last two blocks of `llama`."""
    return TARGETS


@pytest.fixture
def make_examples():
    """make(count, seed, prefix, prompt lengths, answer lengths) -> examples of random token ids."""

    def make(count, seed=0, prefix=(), prompts=(3, 9), answers=(1, 6), vocabulary=1300):
        random = np.random.default_rng(seed)

        def ids(low, high):
            return tuple(random.integers(1, vocabulary, random.integers(low, high + 1)).tolist())

        return [Example((*prefix, *ids(*prompts)), ids(*answers)) for _ in range(count)]

    return make
