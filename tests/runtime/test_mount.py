"""Mounted atoms against dense merging, PEFT's exact combination and a hand-written two-pass oracle."""

import copy
import dataclasses

import pytest
import tiny_mount as tiny
import torch

from atomlora.atom import Target
from atomlora.errors import BaseModelError, UsageError
from atomlora.runtime.composition import composition
from atomlora.runtime.forwards import bound
from atomlora.runtime.mount import Mount, resolve_target


def test_bit_equal_without_atoms_and_after_unmounting(model, pool):
    ids = tiny.prompt(9)
    bare = model(ids).logits
    mount = Mount(model, tiny.TARGETS, pool)
    assert torch.equal(model(ids).logits, bare)
    assert torch.equal(model(ids, composition=tiny.compose(pool, [{}], [8])).logits, bare)
    assert torch.equal(model(ids, composition=tiny.compose(pool, [{"a": 0.0}], [8])).logits, bare)
    changed = model(ids, composition=tiny.compose(pool, [{"a": 1.0}], [8])).logits
    assert not torch.equal(changed[:, 8], bare[:, 8])
    assert torch.equal(changed[:, :8], bare[:, :8])
    mount.unmount()
    mount.unmount()
    assert torch.equal(model(ids).logits, bare)
    assert "forward" not in vars(model)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="composition"):
        tiny.decode(model, ids, composition=tiny.compose(pool, [{"a": 1.0}], [8]))


def test_mounting_compiles_the_kernel_before_the_first_answer(model, pool, monkeypatch):
    warmed = []
    monkeypatch.setattr("atomlora.runtime.mount.warm_up", warmed.append)
    with Mount(model, tiny.TARGETS, pool):
        assert warmed == [torch.float32]


def test_unmounting_gives_back_a_forward_that_others_had_set(model, pool):
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    theirs = model.forward
    with Mount(model, tiny.TARGETS, pool):
        assert model.forward is not theirs
    assert model.forward is theirs


def test_scope_all_equals_dense_merging(model, pool):
    atoms, ids = {"a": 0.9, "b": 0.4, "c": 1.0}, tiny.prompt(11)
    with Mount(model, tiny.TARGETS, pool, scope="all"):
        found = model(ids, composition=tiny.compose(pool, [atoms], [10])).logits
    tiny.assert_close(found, tiny.merged(model, atoms)(ids).logits)


def test_scope_all_equals_peft_cat(model, pool):
    from peft import LoraConfig, get_peft_model

    atoms, ids = {"a": 0.8, "b": 0.5}, tiny.prompt(7)
    with Mount(model, tiny.TARGETS, pool, scope="all"):
        found = model(ids, composition=tiny.compose(pool, [atoms], [6])).logits
    settings = {
        "r": tiny.RANK,
        "lora_alpha": tiny.ALPHA,
        "target_modules": ["gate_proj", "up_proj", "down_proj"],
        "layers_to_transform": [1, 2],
    }
    peft = get_peft_model(copy.deepcopy(model), LoraConfig(**settings), adapter_name="a")
    peft.add_adapter("b", LoraConfig(**settings))
    with torch.no_grad():
        for name in atoms:
            for target, (a, bt) in zip(tiny.TARGETS, tiny.FACTORS[name], strict=True):
                module = peft.base_model.model.model.layers[target.layer].mlp.get_submodule(target.module)
                module.lora_A[name].weight.copy_(a)
                module.lora_B[name].weight.copy_(bt.T)
        peft.add_weighted_adapter(list(atoms), list(atoms.values()), "sum", combination_type="cat")
        peft.set_adapter("sum")
        tiny.assert_close(found, peft.eval()(ids).logits)


@pytest.mark.parametrize("start", [0, 4, 9])
def test_answer_scope_equals_two_passes(model, pool, start):
    atoms, ids = {"a": 0.9, "d": 0.6}, tiny.prompt(10)
    with Mount(model, tiny.TARGETS, pool):
        out = model(ids, composition=tiny.compose(pool, [atoms], [start]))
    wanted = tiny.two_pass(model, atoms, ids, start) if start else tiny.merged(model, atoms)(ids).logits
    tiny.assert_close(out.logits[:, start:], wanted)


def test_prefix_of_the_cache_is_free_of_atoms(model, pool):
    ids = tiny.prompt(9)
    bare = model(ids, use_cache=True).past_key_values
    with Mount(model, tiny.TARGETS, pool):
        cache = model(ids, use_cache=True, composition=tiny.compose(pool, [{"a": 1.0}], [5])).past_key_values
    for layer, (found, wanted) in enumerate(zip(cache.layers, bare.layers, strict=True)):
        assert torch.equal(found.keys[:, :, :5], wanted.keys[:, :, :5])
        assert torch.equal(found.values[:, :, :5], wanted.values[:, :, :5])
        # Layer 1 is the first that atoms adapt, so layer 2 is the first whose keys depend on them.
        assert torch.equal(found.keys[:, :, 5:], wanted.keys[:, :, 5:]) == (layer < 2)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_right_padding(model, pool, scope):
    lengths, width = (4, 9, 6), 9
    rows, starts = [{"a": 1.0}, {"b": 0.5}, {"c": 0.9, "a": 0.3}], [2, 8, 4]
    ids = tiny.prompt(width, rows=3)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    with Mount(model, tiny.TARGETS, pool, scope=scope):
        found = model(ids, attention_mask=mask, composition=tiny.compose(pool, rows, starts)).logits
        for row, length in enumerate(lengths):
            request = tiny.compose(pool, [rows[row]], [starts[row]])
            tiny.assert_close(found[row, :length], model(ids[row : row + 1, :length], composition=request).logits[0])


def test_scope_all_spares_padding(model, pool):
    ids, mask = tiny.left_pad([tiny.prompt(3)[0], tiny.prompt(7)[0]])
    seen = []
    with Mount(model, tiny.TARGETS, pool, scope="all"):
        hook = model.model.layers[1].mlp.gate_proj.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
        model(ids, attention_mask=mask)
        model(ids, attention_mask=mask, composition=tiny.compose(pool, [{"a": 1.0}, {"a": 1.0}], [6, 6]))
        hook.remove()
    bare, adapted = seen
    changed = (bare != adapted).any(-1)
    assert torch.equal(changed, mask.bool())


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_bound(model, pool, error):
    ids = tiny.prompt(6)
    bare = model(ids).logits

    def fail(*_arguments):
        assert bound.get() is not None
        raise error("on purpose")

    with Mount(model, tiny.TARGETS, pool):
        handle = model.model.layers[2].register_forward_hook(fail)
        with pytest.raises(error, match="on purpose"):
            model(ids, composition=tiny.compose(pool, [{"a": 1.0}], [5]))
        handle.remove()
        assert bound.get() is None
        assert torch.equal(model(ids).logits, bare)


def test_a_forward_inside_a_forward_sees_its_own_composition(model, pool):
    ids = tiny.prompt(6)
    inner_logits = []
    bare = model(ids).logits
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 1.0}], [5])
        wanted = model(ids, composition=request).logits

        def ask_again(*_arguments):
            handle.remove()
            inner_logits.append(model(ids).logits)

        handle = model.model.layers[1].register_forward_pre_hook(ask_again)
        outer = model(ids, composition=request).logits
    assert torch.equal(inner_logits[0], bare)
    assert torch.equal(outer, wanted)


def test_positional_arguments(model, pool):
    ids, mask = tiny.left_pad([tiny.prompt(4)[0], tiny.prompt(6)[0]])
    with Mount(model, tiny.TARGETS, pool, scope="all"):
        request = tiny.compose(pool, [{"a": 1.0}, {"b": 1.0}], [5, 5])
        assert torch.equal(
            model(ids, mask, composition=request).logits,
            model(input_ids=ids, attention_mask=mask, composition=request).logits,
        )
        embedded = model.get_input_embeddings()(ids)
        tiny.assert_close(
            model(inputs_embeds=embedded, attention_mask=mask, composition=request).logits,
            model(ids, mask, composition=request).logits,
        )


def test_bfloat16_keeps_its_dtype_and_its_value(pool):
    model = tiny.make_model().to(torch.bfloat16)
    ids, atoms = tiny.prompt(6), {"a": 0.9, "b": 0.8}
    with Mount(model, tiny.TARGETS, pool, scope="all"):
        found = model(ids, composition=tiny.compose(pool, [atoms], [5])).logits
    assert found.dtype == torch.bfloat16
    exact = tiny.merged(tiny.make_model(), atoms)(ids).logits
    bare = tiny.make_model()(ids).logits
    # bfloat16 carries 8 bits: the result must lie far nearer to the merged model than the bare base does.
    assert (found.float() - exact).abs().mean() < 0.1 * (bare - exact).abs().mean()


def test_two_pools_on_one_model(model, pool):
    other, ids = tiny.make_pool(), tiny.prompt(7)
    one = tiny.compose(pool, [{"a": 1.0}], [6])
    two = tiny.compose(other, [{"b": 1.0}], [6])
    first = Mount(model, tiny.TARGETS, pool)
    wanted_one = model(ids, composition=one).logits
    with Mount(model, tiny.TARGETS, other):
        with pytest.raises(UsageError, match="must name its own"):
            model(ids, composition=one)
        one, two = dataclasses.replace(one, pool=pool), dataclasses.replace(two, pool=other)
        assert torch.equal(model(ids, composition=one).logits, wanted_one)
        found = model(ids, composition=two).logits
        first.unmount()
        assert torch.equal(model(ids, composition=two).logits, found)
        tiny.assert_close(found[:, 6:], tiny.two_pass(model, {"b": 1.0}, ids, 6))
        with pytest.raises(UsageError, match="not mounted"):
            model(ids, composition=one)
    assert "forward" not in vars(model)


def test_a_copy_of_a_mounted_model_is_bare_and_its_own(model, pool):
    ids = tiny.prompt(5)
    with Mount(model, tiny.TARGETS, pool):
        twin = copy.deepcopy(model)
        assert torch.equal(twin(ids).logits, model(ids).logits)
        twin.lm_head.weight.zero_()
        assert twin(ids).logits.abs().max() == 0
        assert model(ids).logits.abs().max() > 0


def test_wrong_uses_are_named(model, pool):
    with pytest.raises(BaseModelError, match="layers 0 to 2"):
        resolve_target(model, Target(layer=3, module="gate_proj", d_in=32, d_out=48))
    with pytest.raises(BaseModelError, match=r"not in that block.*mlp\.up_proj"):
        resolve_target(model, Target(layer=1, module="fc1", d_in=32, d_out=48))
    with pytest.raises(BaseModelError, match="32 to 48 features"):
        resolve_target(model, Target(layer=1, module="gate_proj", d_in=32, d_out=32))
    assert resolve_target(model, tiny.TARGETS[0]) is model.model.layers[1].mlp.gate_proj
    full_name = Target(layer=1, module="mlp.gate_proj", d_in=32, d_out=48)
    assert resolve_target(model, full_name) is model.model.layers[1].mlp.gate_proj
    with Mount(model, tiny.TARGETS, pool):
        with pytest.raises(UsageError, match="2 rows, the batch 3"):
            model(tiny.prompt(5, rows=3), composition=tiny.compose(pool, [{"a": 1.0}, {}], [4, 4]))
        embedded = model.get_input_embeddings()(tiny.prompt(5)).requires_grad_()
        with pytest.raises(UsageError, match="gradients"):
            model(inputs_embeds=embedded, composition=tiny.compose(pool, [{"a": 1.0}], [0]))
        assert bound.get() is None
    with pytest.raises(UsageError, match="rows of slots"):
        composition([[0]], [[1.0]], [1, 2])
    with pytest.raises(UsageError, match="more slots"):
        composition([[0, 1]], [[1.0]], [1])


def test_unmounted_model_is_untouched_when_a_target_is_missing(model, pool):
    wrong = (*tiny.TARGETS, Target(layer=1, module="fc1", d_in=32, d_out=48))
    with pytest.raises(BaseModelError):
        Mount(model, wrong, pool)
    assert not any(module._forward_hooks for module in model.modules())
