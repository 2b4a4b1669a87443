"""Gated MLPs that go by `sum_delta_gated` when decoding: on CUDA in earnest, here by having the CPU do so too."""

import copy

import pytest
import tiny_mount as tiny
import torch
from tiny_base import tiny_base, tiny_llama

from atomlora.errors import UsageError
from atomlora.runtime import gated, mount
from atomlora.runtime.forwards import bound
from atomlora.runtime.mount import Mount


@pytest.fixture
def calls(monkeypatch):
    """The activations that the kernel was asked for, in turn; and the CPU counts as a place where it pays."""
    asked = []
    real = gated.sum_delta_gated

    def noted(*arguments, **keywords):
        asked.append(keywords["activation"])
        return real(*arguments, **keywords)

    monkeypatch.setattr(gated, "sum_delta_gated", noted)
    monkeypatch.setattr(mount, "_GATED_ON", ("cpu",))
    return asked


def prefilled(model, ids, request=None):
    return model(ids, use_cache=True, composition=request).past_key_values


def next_logits(model, ids, cache, request=None):
    return model(ids, past_key_values=copy.deepcopy(cache), use_cache=True, composition=request).logits


def test_on_a_cpu_the_hooks_do_it_all(model, pool, monkeypatch):
    monkeypatch.setattr(mount, "gated_forward", lambda *_: pytest.fail("asked for"))
    with Mount(model, tiny.TARGETS, pool):
        assert not any("forward" in vars(layer.mlp) for layer in model.model.layers)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_decoding_continues_as_the_oracle(model, pool, calls, scope):
    atoms, ids = {"b": 1.0, "c": 0.7}, tiny.prompt(8)
    with Mount(model, tiny.TARGETS, pool, scope=scope):
        found = tiny.decode(model, ids, composition=tiny.compose(pool, [atoms], [7]))
    # Two layers in each of the five steps after the prompt, whose tokens before the answer go by the hooks.
    assert calls == ["silu"] * 10
    wanted = ids
    for _ in range(6):
        if scope == "answer":
            logits = tiny.two_pass(model, atoms, wanted, 7)
        else:
            logits = tiny.merged(model, atoms)(wanted).logits
        wanted = torch.cat([wanted, logits[:, -1:].argmax(-1)], dim=1)
    assert torch.equal(found, wanted)


def test_a_step_equals_that_of_the_hooks(model, pool, calls):
    ids, more = tiny.prompt(6, rows=3), tiny.prompt(1, seed=5, rows=3)
    request = tiny.compose(pool, [{"a": 1.0}, {"b": 0.4, "c": 0.9}, {"d": -0.5}], [5] * 3)
    with Mount(model, tiny.TARGETS, pool) as mounted:
        cache = prefilled(model, ids, request)
        found = next_logits(model, more, cache, request)
        assert len(calls) == 2
        for forward in mounted._gated:
            forward.pools.clear()
        tiny.assert_close(found, next_logits(model, more, cache, request))
        assert len(calls) == 2


def test_rows_without_atoms_stay_the_bare_base_bit_for_bit(model, pool, calls):
    ids, more = tiny.prompt(6, rows=3), tiny.prompt(1, seed=5, rows=3)
    cache = prefilled(model, ids)
    bare = next_logits(model, more, cache)
    with Mount(model, tiny.TARGETS, pool):
        assert torch.equal(next_logits(model, more, cache), bare)
        for none in ({}, {"a": 0.0}):
            request = tiny.compose(pool, [none] * 3, [5] * 3)
            assert torch.equal(next_logits(model, more, cache, request), bare)
            request = tiny.compose(pool, [none, {"b": 1.0}, none], [5] * 3)
            mixed = next_logits(model, more, cache, request)
            assert torch.equal(mixed[[0, 2]], bare[[0, 2]])
            assert not torch.equal(mixed[1], bare[1])
    assert not calls


@pytest.mark.parametrize(
    ("activation", "name"), [("silu", "silu"), ("gelu_pytorch_tanh", "gelu_tanh"), ("relu", None), ("gelu", None)]
)
def test_only_activations_that_the_kernel_knows(pool, calls, activation, name):
    model = tiny_llama(tiny.VOCABULARY, hidden_act=activation)
    ids, more = tiny.prompt(6), tiny.prompt(1, seed=5)
    request = tiny.compose(pool, [{"a": 1.0}], [5])
    with Mount(model, tiny.TARGETS, pool):
        cache = prefilled(model, ids, request)
        found = next_logits(model, more, cache, request)
    assert calls == ([name] * 2 if name else [])
    dense = tiny.merged(model, {"a": 1.0})
    tiny.assert_close(found, next_logits(dense, more, cache))


@pytest.mark.parametrize("architecture", ["Qwen2", "Gemma2", "Phi3"])
def test_other_architectures(calls, architecture):
    """What is one layer of another kind, as Phi's gate and up, goes by the hooks."""
    sizes = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    model = tiny_base(architecture, {**sizes, **heads, "pad_token_id": 0, "initializer_range": 0.2})
    name = {"Phi3": ("gate_up_proj", "down_proj")}.get(architecture, ("gate_proj", "up_proj", "down_proj"))
    linears = [getattr(model.model.layers[1].mlp, module) for module in name]
    targets = [
        tiny.TARGETS[0].model_copy(update={"layer": 1, "module": module, "d_in": linear.in_features})
        for module, linear in zip(name, linears, strict=True)
    ]
    targets = [t.model_copy(update={"d_out": linear.out_features}) for t, linear in zip(targets, linears, strict=True)]
    pool = tiny.AdapterPool(mount.pool_targets(targets), capacity=2, rank=3, dtype=torch.float32)
    factors = [(torch.randn(3, t.d_in) * 0.2, torch.randn(3, t.d_out) * 0.2) for t in targets]
    request = tiny.composition([pool.acquire(["a"], lambda _: (factors, 1.0))], [[1.0]], [3])
    ids, more = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9]])
    with Mount(model, targets, pool) as mounted:
        cache = prefilled(model, ids, request)
        found = next_logits(model, more, cache, request)
        for forward in mounted._gated:
            forward.pools.clear()
        tiny.assert_close(found, next_logits(model, more, cache, request))
    assert calls == {"Qwen2": ["silu"], "Gemma2": ["gelu_tanh"], "Phi3": []}[architecture]


def test_both_layers_must_be_adapted(model, calls):
    some = [target for target in tiny.TARGETS if target.module != "up_proj"]
    pool = tiny.AdapterPool(mount.pool_targets(some), capacity=2, rank=3, dtype=torch.float32)
    with Mount(model, some, pool) as mounted:
        assert not mounted._gated


def test_a_module_that_does_more_is_left_to_the_hooks(model, pool, calls):
    mlp = model.model.layers[1].mlp
    inner = mlp.forward
    mlp.forward = lambda x: inner(x).clamp(-0.1, 0.1)
    theirs = mlp.forward
    with Mount(model, tiny.TARGETS, pool) as mounted:
        assert [forward.module for forward in mounted._gated] == [model.model.layers[2].mlp]
        assert mlp.forward is theirs
    assert mlp.forward is theirs


def test_unmounting_leaves_nothing_and_copies_are_bare(model, pool, calls):
    ids, other = tiny.prompt(5), tiny.make_pool()
    first = Mount(model, tiny.TARGETS, pool)
    second = Mount(model, tiny.TARGETS, other)
    assert first._gated == second._gated
    twin = copy.deepcopy(model)
    assert torch.equal(twin(ids).logits, model(ids).logits)
    twin.model.layers[1].mlp.down_proj.weight.zero_()
    assert not torch.equal(twin(ids).logits, model(ids).logits)
    first.unmount()
    first.unmount()
    request = tiny.compose(other, [{"b": 1.0}], [4])
    cache, more = prefilled(model, ids, request), tiny.prompt(1, seed=5)
    found = next_logits(model, more, cache, request)
    assert calls == ["silu"] * 2
    second.unmount()
    assert not any("forward" in vars(module) for module in model.modules())
    tiny.assert_close(found, next_logits(tiny.merged(model, {"b": 1.0}), more, cache))


def test_errors_leave_nothing_bound(model, pool, calls):
    ids, more = tiny.prompt(6), tiny.prompt(1, seed=5)
    request = tiny.compose(pool, [{"a": 1.0}], [5])
    with Mount(model, tiny.TARGETS, pool):
        cache = prefilled(model, ids, request)
        embedded = model.get_input_embeddings()(more).requires_grad_()
        with pytest.raises(UsageError, match="gradients"):
            model(inputs_embeds=embedded, past_key_values=copy.deepcopy(cache), composition=request)
        assert bound.get() is None

        def fail(*_arguments):
            raise KeyboardInterrupt

        handle = model.model.layers[1].mlp.up_proj.register_forward_hook(fail)
        with pytest.raises(KeyboardInterrupt):
            next_logits(model, more, cache, request)
        handle.remove()
        assert bound.get() is None


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_cuda_a_step_equals_that_of_the_hooks(model):
    model = model.cuda()
    pool = tiny.AdapterPool(mount.pool_targets(tiny.TARGETS), capacity=6, rank=tiny.RANK, device="cuda")
    slots = pool.acquire(["a", "b"], lambda name: (tiny.FACTORS[name], tiny.SCALING))
    request = tiny.composition([slots, slots[:1]], [[1.0, 0.5], [-0.7]], [5, 5], "cuda", pool)
    ids, more = tiny.prompt(6, rows=2).cuda(), tiny.prompt(1, seed=5, rows=2).cuda()
    with Mount(model, tiny.TARGETS, pool) as mounted:
        assert len(mounted._gated) == 2
        cache = prefilled(model, ids, request)
        found = next_logits(model, more, cache, request)
        for forward in mounted._gated:
            forward.pools.clear()
        tiny.assert_close(found, next_logits(model, more, cache, request))
