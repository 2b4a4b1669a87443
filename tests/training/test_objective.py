"""Losses over candidate tokens agree with the full head where they must."""

from types import SimpleNamespace

import pytest
import torch
from tiny_base import tiny_base

from atomlora.bases import blocks
from atomlora.errors import BaseModelError
from atomlora.packing import pack_branches, target_nll
from atomlora.training.objective import CandidateHead, answer_nll, check_head, silence_loss
from atomlora.training.trunk import IGNORED, Trunk, late_forward

VOCABULARY = 1300


@pytest.fixture
def rows(llama, make_examples):
    # Ids on both sides of the shared candidates, and some answer tokens twice in one answer.
    return Trunk(llama, 1, (), 0).rows(make_examples(5, seed=3, answers=(2, 6)), range(5), with_final=True)


@pytest.fixture
def head(llama):
    return CandidateHead(llama)


def likely_of(head, rows, many):
    return head.likely(rows.final.flatten(0, 1), many).reshape(len(rows), -1)


def everything(rows):
    return torch.arange(VOCABULARY).expand(len(rows), -1)


def disturbed(rows, scale=0.5):
    return rows.final + scale * torch.randn(rows.final.shape, generator=torch.Generator().manual_seed(2))


def test_whole_vocabulary_gives_the_full_heads_probabilities(llama, head, rows):
    candidates = head.candidates(rows, everything(rows))
    hidden = disturbed(rows)
    chosen = torch.log_softmax(head.logits(hidden, candidates), -1).gather(-1, candidates.target[..., None])[..., 0]
    full = torch.log_softmax(hidden @ llama.lm_head.weight.T, -1)
    expected = full.gather(-1, rows.targets.clamp(min=0)[..., None])[..., 0]
    valid = rows.targets != IGNORED
    torch.testing.assert_close(chosen[valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_repeats_count_once(head, rows):
    once = head.candidates(rows, everything(rows))
    twice = head.candidates(rows, torch.cat([everything(rows)] * 3, 1))
    first, second = (head.logits(rows.final, c).logsumexp(-1) for c in (once, twice))
    torch.testing.assert_close(first, second)
    assert (twice.bias == 0).sum() == (once.bias == 0).sum() == 5 * (VOCABULARY - head.shared)


def test_targets_are_always_in_the_set(head, rows):
    assert int((rows.targets >= head.shared).sum()) > 0
    assert int(((rows.targets >= 0) & (rows.targets < head.shared)).sum()) > 0
    for many in (1, 16):
        candidates = head.candidates(rows, likely_of(head, rows, many))
        hidden = disturbed(rows)
        logits = head.logits(hidden, candidates).gather(-1, candidates.target[..., None])[..., 0]
        expected = head.full_logits(hidden).gather(-1, rows.targets.clamp(min=0)[..., None])[..., 0]
        valid = rows.targets != IGNORED
        torch.testing.assert_close(logits[valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_extra_tokens_join_and_padding_does_not(head, rows):
    likely = likely_of(head, rows, 1)
    extra = torch.full((5, 2), IGNORED)
    unused = next(t for t in range(VOCABULARY - 1, 0, -1) if t not in {*rows.targets[2].tolist(), *likely[2].tolist()})
    extra[2, 1] = unused
    without, with_extra = head.candidates(rows, likely), head.candidates(rows, torch.cat([likely, extra], 1))
    counts = (with_extra.bias == 0).sum(1) - (without.bias == 0).sum(1)
    assert counts.tolist() == [0, 0, 1, 0, 0]


def test_likely_tokens_are_the_full_heads(llama, head, rows):
    expected = (rows.final @ llama.lm_head.weight.T).topk(3, -1).indices.flatten(1)
    assert torch.equal(likely_of(head, rows, 3), expected)


def test_softcap_of_the_base_is_kept(head, rows):
    plain = head.full_logits(rows.final)
    head.config = SimpleNamespace(final_logit_softcapping=3.0)
    torch.testing.assert_close(head.full_logits(rows.final), 3 * torch.tanh(plain / 3))
    assert float(head.logits(rows.final, head.candidates(rows, everything(rows))).abs().max()) <= 3.0


OTHER = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "pad_token_id": 0,
         "num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}  # fmt: skip


@pytest.mark.parametrize(
    ("architecture", "config"),
    [("Granite", {"logits_scaling": 8.0}), ("Cohere", {"logit_scale": 0.0625}), ("Llama", {}),
     ("Gemma2", {"head_dim": 8, "final_logit_softcapping": 3.0})],
)  # fmt: skip
def test_logits_are_scaled_as_the_base_does(architecture, config):
    base = tiny_base(architecture, {**OTHER, **config})
    ids = torch.arange(3, 9)[None]
    hidden = base.model(ids).last_hidden_state
    own = base(ids).logits
    torch.testing.assert_close(CandidateHead(base).full_logits(hidden), own)
    check_head(base)
    nll = -own[0, 3:5].log_softmax(-1).gather(-1, ids[0, 4:6, None])[:, 0]
    torch.testing.assert_close(target_nll(base, [pack_branches([3, 4], [([5, 6], [7, 8])])]), nll)


def test_a_base_without_a_last_norm_is_refused():
    with pytest.raises(BaseModelError, match=r"PhiForCausalLM has no Llama-like blocks.*Phi-3"):
        blocks(tiny_base("Phi", OTHER))


def test_a_head_that_is_not_understood_is_refused():
    with pytest.raises(BaseModelError, match="PhiForCausalLM makes its logits otherwise"):
        check_head(tiny_base("Phi", OTHER))  # with a bias
    multiplied = tiny_base("Granite", {**OTHER, "logits_scaling": 8.0})  # as HyperCLOVA X does by that name
    multiplied.lm_head.register_forward_hook(lambda _module, _args, y: y * 64)
    with pytest.raises(BaseModelError, match="Granite"):
        check_head(multiplied)


def test_exact_by_hand(llama, head, rows):
    real = rows.targets != IGNORED
    hidden, targets = disturbed(rows)[real], rows.targets[real]
    best, nll = head.exact(hidden, targets)
    logits = hidden @ llama.lm_head.weight.T
    assert torch.equal(best, logits.argmax(-1))
    expected = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    torch.testing.assert_close(nll, expected, rtol=1e-4, atol=1e-4)


def test_nll_of_chosen_columns_is_that_of_the_whole(head, rows):
    candidates, hidden = head.candidates(rows, likely_of(head, rows, 4)), disturbed(rows)
    whole = answer_nll(head.logits(hidden, candidates), candidates)
    picked, columns = torch.tensor([3, 1]), torch.tensor([[1, 0], [1, -1]])
    few = candidates.narrowed(picked, columns)
    found = answer_nll(head.logits(hidden[picked[:, None], columns.clamp(min=0)], few), few)
    torch.testing.assert_close(found[0], whole[3, [1, 0]])
    torch.testing.assert_close(found[1, 0], whole[1, 1])


def test_silence_is_zero_where_nothing_changed_and_positive_where_it_did(head, rows):
    candidates = head.candidates(rows, likely_of(head, rows, 8), with_teacher=True)
    valid = rows.targets != IGNORED
    still = silence_loss(head.logits(rows.final, candidates), candidates, valid)
    torch.testing.assert_close(still, torch.zeros(5), atol=1e-5, rtol=0)
    hidden = rows.final.clone()
    hidden[1] = disturbed(rows)[1]
    moved = silence_loss(head.logits(hidden, candidates), candidates, valid)
    assert moved[1] > 0.01
    torch.testing.assert_close(moved[[0, 2, 3, 4]], torch.zeros(4), atol=1e-5, rtol=0)


def test_silence_is_the_divergence_from_the_base(head, rows):
    candidates = head.candidates(rows, everything(rows), with_teacher=True)
    hidden, valid = disturbed(rows), rows.targets != IGNORED
    found = silence_loss(head.logits(hidden, candidates), candidates, valid)
    teacher, student = (torch.log_softmax(head.full_logits(h), -1) for h in (rows.final, hidden))
    each = torch.nn.functional.kl_div(student, teacher, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(found, (each * valid).sum(1) / valid.sum(1), rtol=1e-3, atol=1e-4)


def test_gradients_reach_factors_through_late_blocks(llama, head, rows):
    shift = torch.zeros(32, requires_grad=True)
    handle = llama.model.layers[2].mlp.down_proj.register_forward_hook(lambda _m, _a, y: y + shift)
    candidates = head.candidates(rows, likely_of(head, rows, 8))
    answer_nll(head.logits(late_forward(llama, 1, rows), candidates), candidates).sum().backward()
    handle.remove()
    assert float(shift.grad.abs().sum()) > 0
