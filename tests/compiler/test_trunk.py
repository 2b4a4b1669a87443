"""The frozen trunk and the late blocks together are the model's own forward, whatever the architecture."""

import pytest
import torch
import transformers

from atomlora.compiler.trunk import IGNORED, Example, Trunk, late_forward

PREFIX = (5, 6, 7)
SMALL = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}
# Windows of 5 tokens are shorter than prompts and answers, so that sliding attention shows.
ARCHITECTURES = {
    "Llama": {},
    "Qwen2": {},
    "Qwen3": {},
    "Mistral": {"sliding_window": 5},
    "Gemma2": {"sliding_window": 5, "query_pre_attn_scalar": 8},
    "Gemma3": {"sliding_window": 5, "query_pre_attn_scalar": 8},
    "Phi3": {"sliding_window": 5},
}


def tiny(architecture, attention=None):
    name = "Gemma3Text" if architecture == "Gemma3" else architecture
    config = getattr(transformers, f"{name}Config")(**SMALL, **ARCHITECTURES[architecture])
    if attention is not None:
        config._attn_implementation = attention
    torch.manual_seed(3)
    model = getattr(transformers, f"{architecture}ForCausalLM")(config)
    return model.eval().requires_grad_(False)


@torch.no_grad()
def own_forward(model, example):
    """The model's last hidden state at the last prompt token and every answer token but the last."""
    ids = torch.tensor([[*example.prompt, *example.answer[:-1]]])
    return model.model(ids, use_cache=False).last_hidden_state[0, len(example.prompt) - 1 :]


def check(model, examples, rows, first_late, tolerance):
    with torch.no_grad():
        hidden = late_forward(model, first_late, rows)
    for row, example in enumerate(examples):
        length = len(example.answer)
        expected = own_forward(model, example)
        torch.testing.assert_close(hidden[row, :length], expected, rtol=tolerance, atol=tolerance)
        torch.testing.assert_close(rows.final[row, :length], expected, rtol=tolerance, atol=tolerance)
        assert rows.targets[row, :length].tolist() == list(example.answer)
        assert (rows.targets[row, length:] == IGNORED).all()


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ragged_rows_equal_the_models_own_forward(architecture, prefix, make_examples):
    model = tiny(architecture)
    examples = make_examples(7, prefix=prefix, answers=(1, 9), vocabulary=97)
    trunk = Trunk(model, 2, prefix, 0)
    rows = trunk.rows(examples, range(7))
    assert rows.owner.tolist() == list(range(7))
    check(model, examples, rows, 2, 2e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Mistral", "Gemma3"])
def test_prompts_of_unlike_length_take_several_forwards(architecture, make_examples, monkeypatch):
    model = tiny(architecture)
    prefix = () if architecture == "Mistral" else PREFIX
    examples = make_examples(9, seed=5, prefix=prefix, prompts=(1, 40), answers=(1, 9), vocabulary=97)
    trunk, sizes = Trunk(model, 2, prefix, 0), []
    monkeypatch.setattr(
        trunk, "_forward", lambda some, *rest: sizes.append(len(some)) or Trunk._forward(trunk, some, *rest)
    )
    rows = trunk.rows(examples, range(9))
    assert len(sizes) > 1
    assert sum(sizes) == 9
    assert rows.owner.tolist() == list(range(9))
    check(model, examples, rows, 2, 2e-4)
    picks = [8, 0, 3]
    check(model, [examples[i] for i in picks], rows.select(torch.tensor(picks)), 2, 2e-4)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3"])
def test_prefix_longer_than_the_window(architecture, make_examples):
    model, prefix = tiny(architecture), tuple(range(5, 14))
    examples = make_examples(4, prefix=prefix, vocabulary=97)
    check(model, examples, Trunk(model, 1, prefix, 0).rows(examples, [0] * 4), 1, 2e-4)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
def test_rows_of_one_length_where_the_model_needs_no_mask(prefix, attention, make_examples):
    model = tiny("Llama", attention)
    examples = make_examples(3, prefix=prefix, prompts=(4, 4), answers=(5, 5), vocabulary=97)
    check(model, examples, Trunk(model, 2, prefix, 0).rows(examples, [0, 0, 0]), 2, 2e-4)
    check(model, examples[:1], Trunk(model, 2, prefix, 0).rows(examples[:1], [0]), 2, 2e-4)


def test_exact_in_float64(make_examples):
    model = tiny("Llama").double()
    examples = make_examples(6, seed=4, prefix=PREFIX, vocabulary=97)
    for first_late in range(4):
        rows = Trunk(model, first_late, PREFIX, 0).rows(examples, [0] * 6)
        check(model, examples, rows, first_late, 1e-10)


@pytest.mark.parametrize("architecture", ["Llama", "Gemma3"])
def test_select_keeps_rows(architecture, make_examples):
    model = tiny(architecture)
    examples = make_examples(6, seed=1, prefix=PREFIX, vocabulary=97)
    rows = Trunk(model, 2, PREFIX, 0).rows(examples, range(6))
    picks = [4, 0, 4, 2]
    chosen = rows.select(torch.tensor(picks))
    assert len(chosen) == 4
    assert chosen.owner.tolist() == picks
    check(model, [examples[i] for i in picks], chosen, 2, 2e-4)
    again = chosen.select(torch.tensor([1]), torch.tensor([9]))
    assert again.owner.tolist() == [9]
    check(model, [examples[0]], again, 2, 2e-4)


def test_select_of_rows_that_share_one_mask(make_examples):
    model = tiny("Llama")
    examples = make_examples(3, prompts=(4, 4), answers=(5, 5), vocabulary=97)
    rows = Trunk(model, 2, (), 0).rows(examples, range(3))
    check(model, [examples[2], examples[1]], rows.select(torch.tensor([2, 1])), 2, 2e-4)


def test_late_forward_sees_hooks_and_gives_gradients(make_examples):
    model = tiny("Llama")
    rows = Trunk(model, 3, (), 0).rows(make_examples(2, vocabulary=97), [0, 1])
    shift = torch.zeros(32, requires_grad=True)
    handle = model.model.layers[3].mlp.down_proj.register_forward_hook(lambda _m, _a, y: y + shift)
    late_forward(model, 3, rows).pow(2).sum().backward()
    handle.remove()
    assert shift.grad is not None
    assert float(shift.grad.abs().sum()) > 0


def test_other_prefix_is_refused():
    trunk = Trunk(tiny("Llama"), 2, PREFIX, 0)
    with pytest.raises(ValueError, match="common prefix"):
        trunk.rows([Example((5, 6, 8, 9), (1,))], [0])


def test_order_groups_like_lengths_and_loses_none(make_examples, monkeypatch):
    examples = make_examples(40, seed=2, answers=(1, 30), vocabulary=97)
    monkeypatch.setattr("atomlora.compiler.trunk.GROUP_ROWS", 8)
    groups = Trunk(tiny("Llama"), 2, (), 0).order(examples)
    assert sorted(i for group in groups for i in group) == list(range(40))
    for group in groups:
        lengths = [len(examples[i].answer) for i in group]
        assert len(group) <= 8
        assert max(lengths) <= max(min(lengths) + 2, 1.4 * min(lengths))
