"""The distractor pool: trained once, cached, read bit for bit, mounted in training."""

import logging
from itertools import permutations

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tiny_base import INNER

from atomlora.bases import load_base
from atomlora.compiler.progress import Teller
from atomlora.compiler.session import TrainingSession
from atomlora.prompts import chat_prompt, common_prefix
from atomlora.router.general_questions import GENERAL_QUESTIONS
from atomlora.runtime.decoding import base_answers
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.training import whitening
from atomlora.training.pool import load_or_train_pool, pool_digest, pool_facts
from atomlora.training.shape import resolve_targets
from atomlora.training.trunk import Trunk

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:1"),
    train=TrainSettings(pool_atoms=2, max_steps=3, silence_rows=1, silence_tokens=2),
    slots=2,
)


@pytest.fixture
def base(base_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    return load_base(str(base_folder), "cpu")


@pytest.fixture
def pool(base):
    """pool(settings) -> (records, how often training told of progress)."""

    def load(settings=SETTINGS):
        told = []
        targets = resolve_targets(base.model, settings.adapter)
        trunk = Trunk(base.model, targets[0].layer, common_prefix(base.tokenizer), base.tokenizer.pad_token_id)
        found = load_or_train_pool(base, trunk, targets, settings, lambda done, total: told.append((done, total)))
        return found, told

    return load


def files(tmp_path):
    return sorted((tmp_path / "cache" / "pools").iterdir())


@pytest.mark.parametrize("widest", [whitening.WIDEST_DENSE, INNER - 1], ids=["dense", "wide ones sketched"])
def test_trained_once_then_read_bit_for_bit(pool, tmp_path, caplog, monkeypatch, widest):
    monkeypatch.setattr(whitening, "WIDEST_DENSE", widest)
    trained, told = pool()
    assert told == [(0, 2), (1, 2), (2, 2)]
    assert len(trained.records) == 2
    assert len(trained.answers) == len(GENERAL_QUESTIONS)
    assert len(files(tmp_path)) == 1
    assert "only 0 of 2 training distractors were learnt on " in caplog.text  # in three steps
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        again, told = pool()
    assert not told
    assert not caplog.records
    assert again.answers == trained.answers
    for first, second in zip(trained.records, again.records, strict=True):
        assert second.dtype == np.uint16
        np.testing.assert_array_equal(first, second)
    for first, second in zip(trained.whitening, again.whitening, strict=True):
        eye = torch.eye(len(first if isinstance(first, torch.Tensor) else first.directions))
        assert torch.equal(whitening.whitened(eye, first), whitening.whitened(eye, second))
    assert [isinstance(one, whitening.LowRank) for one in again.whitening] == [False, False, widest < INNER]
    assert again.whitening[0] is again.whitening[1]  # gate and up read the same input


@pytest.mark.parametrize("damage", ["cut", "noise", "empty"])
def test_broken_cache_is_trained_again_with_a_warning(pool, tmp_path, caplog, damage):
    trained, _ = pool()
    (path,) = files(tmp_path)
    data = path.read_bytes()
    path.write_bytes({"cut": data[:-7], "noise": b"\xff" * len(data), "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        again, told = pool()
    assert told
    assert any(path.name in record.getMessage() for record in caplog.records)
    for first, second in zip(trained.records, again.records, strict=True):
        np.testing.assert_array_equal(first, second)
    assert pool()[1] == []


def test_a_cache_that_cannot_be_written_is_only_slower(pool, tmp_path, caplog):
    (tmp_path / "cache").write_text("a file in the way")
    with caplog.at_level(logging.WARNING):
        found, told = pool()
    assert len(found.records) == 2
    assert told[-1] == (2, 2)
    assert "cannot be cached" in caplog.text


def test_no_pool(pool):
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"pool_atoms": 0})})
    for _ in range(2):
        found, told = pool(settings)
        assert found.records == ()
        assert (1, 2) not in told


def test_without_damping_nothing_is_whitened(pool):
    settings = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"damping": None})})
    assert [pool(settings)[0].whitening for _ in range(2)] == [None, None]


def test_digest_names_base_and_recipe():
    other = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"pool_atoms": 1})})
    assert len(pool_facts(other)) == 1
    batch = SETTINGS.model_copy(update={"slots": 7})
    digests = [pool_digest("base", s) for s in (SETTINGS, other)] + [pool_digest("other", SETTINGS)]
    assert len(set(digests)) == 3
    assert pool_digest("base", batch) == digests[0]


def test_a_pool_that_cannot_be_cached_is_used(pool, tmp_path, monkeypatch, caplog):
    """safetensors' own error is no OSError."""

    def full(*_arguments, **_settings):
        raise SafetensorError("No space left on device")

    monkeypatch.setattr("atomlora.training.pool.save_file", full)
    with caplog.at_level(logging.WARNING):
        found, _ = pool()
    assert len(found.records) == 2
    assert "cannot be cached (No space left" in caplog.text
    assert files(tmp_path) == []


def test_base_answers_do_not_depend_on_the_batch(base):
    questions = GENERAL_QUESTIONS[:5]
    together = base_answers(base, questions, 3)
    assert together == [base_answers(base, [question], 3, batch=1)[0] for question in questions]
    ids = chat_prompt(base.tokenizer, questions[1])
    for token in together[1]:
        assert int(base.model(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids = [*ids, token]


def test_base_answers_end_with_the_turn_whatever_token_ends_it(base):
    """As in bases whose tokenizer ends a text by one token, which also pads, and a turn by another."""
    free = base_answers(base, GENERAL_QUESTIONS[:8], 4)
    end, last = next((a[1], b) for a, b in permutations(free, 2) if a[1] not in (a[0], *b))
    base.model.generation_config.eos_token_id = [base.tokenizer.eos_token_id, end]
    found = base_answers(base, GENERAL_QUESTIONS[:8], 4)
    assert last in found  # it was decoded to its end, so that those of the end token were padded
    assert found == [a[: a.index(end) + 1] if end in a else a for a in free]
    assert found != free


def test_a_session_trains_beside_the_pool(base):
    targets = resolve_targets(base.model, SETTINGS.adapter)
    trainer = TrainingSession(base, targets, SETTINGS, "recipe", Teller(None))._trainer()
    assert trainer.adapters.pool is not None
    assert len(trainer.adapters.pool) == 2
    assert set(trainer.bank.companion) == {-1, 0, 1}
    assert len(trainer.adapters.whitening) == len(targets)
