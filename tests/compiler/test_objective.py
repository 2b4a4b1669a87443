"""Losses over candidate tokens agree with the full head where they must."""

from dataclasses import replace

import pytest
import torch

from atomlora.compiler.objective import LOSS_TOKENS, CandidateHead, Candidates, answer_loss, silence_loss
from atomlora.compiler.trunk import IGNORED, Trunk, late_forward

VOCABULARY = 1300


@pytest.fixture
def rows(llama, make_examples):
    # Ids on both sides of the shared candidates, and some answer tokens twice in one answer.
    return Trunk(llama, 1, (), 0).rows(make_examples(5, seed=3, answers=(2, 6)), range(5))


@pytest.fixture
def head(llama):
    return CandidateHead(llama)


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
    twice = head.candidates(rows, torch.cat([everything(rows)] * 2, 1), everything(rows))
    first, second = (head.logits(rows.final, c).logsumexp(-1) for c in (once, twice))
    torch.testing.assert_close(first, second)
    assert (twice.bias == 0).sum() == (once.bias == 0).sum() == 5 * (VOCABULARY - head.shared)


def test_targets_are_always_in_the_set(head, rows):
    assert int((rows.targets >= head.shared).sum()) > 0
    assert int(((rows.targets >= 0) & (rows.targets < head.shared)).sum()) > 0
    for many in (1, 16):
        candidates = head.candidates(rows, head.likely(rows.final, many))
        hidden = disturbed(rows)
        logits = head.logits(hidden, candidates).gather(-1, candidates.target[..., None])[..., 0]
        expected = head.full_logits(hidden).gather(-1, rows.targets.clamp(min=0)[..., None])[..., 0]
        valid = rows.targets != IGNORED
        torch.testing.assert_close(logits[valid], expected[valid], rtol=1e-4, atol=1e-4)


def test_extra_tokens_join_and_padding_does_not(head, rows):
    likely = head.likely(rows.final, 1)
    extra = torch.full((5, 2), IGNORED)
    unused = next(t for t in range(VOCABULARY - 1, 0, -1) if t not in {*rows.targets[2].tolist(), *likely[2].tolist()})
    extra[2, 1] = unused
    without, with_extra = head.candidates(rows, likely), head.candidates(rows, likely, extra)
    counts = (with_extra.bias == 0).sum(1) - (without.bias == 0).sum(1)
    assert counts.tolist() == [0, 0, 1, 0, 0]


def test_likely_tokens_are_the_full_heads(llama, head, rows):
    expected = (rows.final @ llama.lm_head.weight.T).topk(3, -1).indices.flatten(1)
    assert torch.equal(head.likely(rows.final, 3), expected)


def test_softcap_of_the_base_is_kept(head, rows):
    plain = head.full_logits(rows.final)
    head.softcap = 3.0
    torch.testing.assert_close(head.full_logits(rows.final), 3 * torch.tanh(plain / 3))
    assert float(head.logits(rows.final, head.candidates(rows, everything(rows))).abs().max()) <= 3.0


def test_exact_pass_by_hand(llama, head, rows):
    greedy = (rows.final @ llama.lm_head.weight.T).argmax(-1)
    targets = torch.where(rows.targets == IGNORED, IGNORED, greedy)
    targets[3, 1] = (targets[3, 1] + 1) % VOCABULARY
    passed, nll = head.exact_pass(rows.final, replace(rows, targets=targets))
    assert passed.tolist() == [True, True, True, False, True]
    for row in range(5):
        many = int((targets[row] != IGNORED).sum())
        log_probabilities = torch.log_softmax(rows.final[row, :many] @ llama.lm_head.weight.T, -1)
        expected = -log_probabilities[range(many), targets[row, :many]].mean()
        torch.testing.assert_close(nll[row], expected, rtol=1e-4, atol=1e-4)


def test_answer_loss_leaves_passed_tokens_out():
    # One row of three tokens (p = .9, .5, and one that is padding), one row that has passed.
    probabilities = torch.tensor([[[0.9, 0.1], [0.5, 0.5], [0.01, 0.99]], [[0.9, 0.1], [0.81, 0.19], [0.99, 0.01]]])
    candidates = Candidates(torch.empty(0), torch.empty(0), torch.zeros((2, 3), dtype=torch.int64), None)
    valid = torch.tensor([[True, True, False], [True, True, True]])
    logits = probabilities.log().requires_grad_()
    loss, passed = answer_loss(logits, candidates, valid, 0.8)
    torch.testing.assert_close(loss, torch.tensor([-torch.tensor(0.5).log() / LOSS_TOKENS, 0.0]))
    assert passed.tolist() == [False, True]
    loss.sum().backward()
    assert logits.grad[0, 1].abs().sum() > 0
    assert logits.grad[0, [0, 2]].abs().sum() == 0
    assert logits.grad[1].abs().sum() == 0


def test_silence_is_zero_where_nothing_changed_and_positive_where_it_did(head, rows):
    candidates = head.candidates(rows, head.likely(rows.final), with_teacher=True)
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
    candidates = head.candidates(rows, head.likely(rows.final))
    loss, _ = answer_loss(
        head.logits(late_forward(llama, 1, rows), candidates), candidates, rows.targets != IGNORED, 0.8
    )
    loss.sum().backward()
    handle.remove()
    assert float(shift.grad.abs().sum()) > 0
