"""The frozen trunk and the late blocks together are the model's own forward, whatever the architecture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from atomlora.training.rows import columns_of
from atomlora.training.trunk import IGNORED, Example, Trunk, alike, late_forward, whole_cache

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
    """Rows of a trunk that was or was not asked for the final states too."""
    with torch.no_grad():
        hidden = late_forward(model, first_late, rows)
    for row, example in enumerate(examples):
        length = len(example.answer)
        expected = own_forward(model, example)
        torch.testing.assert_close(hidden[row, :length], expected, rtol=tolerance, atol=tolerance)
        if rows.final is not None:
            torch.testing.assert_close(rows.final[row, :length], expected, rtol=tolerance, atol=tolerance)
        assert rows.targets[row, :length].tolist() == list(example.answer)
        assert (rows.targets[row, length:] == IGNORED).all()


@pytest.mark.parametrize("prefix", [(), PREFIX], ids=["bare", "prefix"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_ragged_rows_equal_the_models_own_forward(architecture, prefix, make_examples):
    model = tiny(architecture)
    examples = make_examples(7, prefix=prefix, answers=(1, 9), vocabulary=97)
    trunk = Trunk(model, 2, prefix, 0)
    for with_final in (False, True):
        rows = trunk.rows(examples, range(7), with_final=with_final)
        assert rows.owner.tolist() == list(range(7))
        assert (rows.final is not None) == with_final
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
    rows = trunk.rows(examples, range(9), with_final=True)
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
    check(model, examples, Trunk(model, 2, prefix, 0).rows(examples, [0, 0, 0], with_final=True), 2, 2e-4)
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


def test_alike_groups_like_lengths_and_loses_none():
    lengths = np.random.default_rng(2).integers(1, 30, 40).tolist()
    groups = alike(range(40), lengths.__getitem__, 8)
    assert sorted(i for group in groups for i in group) == list(range(40))
    for group in groups:
        found = [lengths[i] for i in group]
        assert len(group) <= 8
        assert max(found) <= max(min(found) + 2, 1.4 * min(found))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_answers_padded_to_a_length_and_cut_again(architecture, make_examples):
    model = tiny(architecture)
    examples = make_examples(6, seed=8, prefix=PREFIX, answers=(1, 9), vocabulary=97)
    rows = Trunk(model, 2, PREFIX, 0).rows(examples, range(6), length=16, with_final=True)
    assert rows.targets.shape == (6, 16)
    check(model, examples, rows, 2, 2e-4)
    assert late_forward(model, 2, rows).isfinite().all()
    short = rows.cut(9)
    assert short.targets.shape == (6, 9)
    check(model, examples, short, 2, 2e-4)
    assert rows.cut(16) is rows


@pytest.mark.parametrize("attention", ["eager", None], ids=["eager", "default"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_chosen_columns_equal_those_of_the_whole(architecture, attention, make_examples):
    model = tiny(architecture, attention)
    examples = make_examples(7, seed=6, prefix=PREFIX, answers=(2, 9), vocabulary=97)
    rows, cache = Trunk(model, 1, PREFIX, 0).rows(examples, range(7)), whole_cache()
    with torch.no_grad():
        whole = late_forward(model, 1, rows, cache)
    random = np.random.default_rng(9)
    picked = torch.tensor([5, 0, 3, 6])
    chosen = torch.zeros((4, rows.targets.shape[1]), dtype=torch.bool)
    for at, row in enumerate(picked.tolist()):
        length = len(examples[row].answer)
        chosen[at, random.choice(length, random.integers(1, length + 1), replace=False)] = True
    columns = columns_of(chosen)
    with torch.no_grad():
        found = late_forward(model, 1, rows.narrowed(picked, columns, cache.layers[1:]))
    for at, row in enumerate(picked.tolist()):
        wanted = chosen[at].nonzero().flatten()
        torch.testing.assert_close(found[at, : len(wanted)], whole[row, wanted], rtol=2e-4, atol=2e-4)


def test_chosen_columns_see_each_other_anew(make_examples):
    """With another input below, a chosen column changes what a later chosen one sees, and nothing else does."""
    model = tiny("Llama")
    rows, cache = (
        Trunk(model, 1, PREFIX, 0).rows(make_examples(1, prefix=PREFIX, answers=(6, 6), vocabulary=97), [0]),
        whole_cache(),
    )
    with torch.no_grad():
        before = late_forward(model, 1, rows, cache)
    moved = rows.hidden.clone()
    moved[0, 2] += 1.0
    picked, columns = torch.tensor([0]), torch.tensor([[2, 4, -1]])
    narrow = replace(rows, hidden=moved).narrowed(picked, columns, cache.layers[1:])
    assert narrow.targets.tolist() == [[rows.targets[0, 2], rows.targets[0, 4], IGNORED]]
    with torch.no_grad():
        found = late_forward(model, 1, narrow)
    assert not torch.allclose(found[0, 0], before[0, 2], atol=1e-3)
    assert not torch.allclose(found[0, 1], before[0, 4], atol=1e-4)
    alone = replace(rows, hidden=moved).narrowed(picked, torch.tensor([[4]]), cache.layers[1:])
    with torch.no_grad():
        torch.testing.assert_close(late_forward(model, 1, alone)[0, 0], before[0, 4], rtol=1e-4, atol=1e-5)


def test_columns_of_a_choice():
    chosen = torch.tensor([[True, False, True], [False, False, False], [False, True, False]])
    assert columns_of(chosen).tolist() == [[0, 2], [-1, -1], [1, -1]]
