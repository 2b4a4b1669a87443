"""Mounted atoms against dense merging, PEFT's exact combination and a hand-written two-pass oracle."""

import copy
import dataclasses
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TextIteratorStreamer

from atomlora.atom import Target
from atomlora.errors import BaseModelError, UsageError
from atomlora.kernels import AdapterPool
from atomlora.runtime.composition import composition
from atomlora.runtime.mount import Mount, _bound, pool_targets, resolve_target

RANK, ALPHA, WIDTH, INNER, LAYERS, VOCABULARY = 3, 6.0, 32, 48, 3, 97
MODULES = {"gate_proj": (WIDTH, INNER), "up_proj": (WIDTH, INNER), "down_proj": (INNER, WIDTH)}
TARGETS = tuple(Target(layer=i, module=name, d_in=a, d_out=b) for i in (1, 2) for name, (a, b) in MODULES.items())
SCALING = ALPHA / RANK


def make_model(seed: int = 0, **changes) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    model = LlamaForCausalLM(LlamaConfig(**(settings | changes))).eval()
    return model.requires_grad_(False)


def make_factors(seed: int):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn((RANK, t.d_in), generator=generator) * 0.3,
            torch.randn((RANK, t.d_out), generator=generator) * 0.3,
        )
        for t in TARGETS
    ]


FACTORS = {name: make_factors(seed) for seed, name in enumerate("abcd", start=10)}


def load(name):
    return FACTORS[name], SCALING


def make_pool() -> AdapterPool:
    return AdapterPool(pool_targets(TARGETS), capacity=6, rank=RANK, dtype=torch.float32)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def pool():
    return make_pool()


def compose(pool, rows, answer_start):
    """rows: one {atom name: weight} per request row."""
    slots = [pool.acquire(list(row), load) for row in rows]
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


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def left_pad(prompts):
    width = max(len(p) for p in prompts)
    ids = torch.stack([torch.cat([torch.zeros(width - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(p) for p in prompts]).long()
    return ids, mask


def decode(model, ids, steps=6, **settings):
    return model.generate(ids, max_new_tokens=steps, do_sample=False, **settings)


def test_bit_equal_without_atoms_and_after_unmounting(model, pool):
    ids = prompt(9)
    bare = model(ids).logits
    mount = Mount(model, TARGETS, pool)
    assert torch.equal(model(ids).logits, bare)
    assert torch.equal(model(ids, composition=compose(pool, [{}], [8])).logits, bare)
    assert torch.equal(model(ids, composition=compose(pool, [{"a": 0.0}], [8])).logits, bare)
    changed = model(ids, composition=compose(pool, [{"a": 1.0}], [8])).logits
    assert not torch.equal(changed[:, 8], bare[:, 8])
    assert torch.equal(changed[:, :8], bare[:, :8])
    mount.unmount()
    mount.unmount()
    assert torch.equal(model(ids).logits, bare)
    assert "forward" not in vars(model)
    assert not any(module._forward_hooks for module in model.modules())
    with pytest.raises(ValueError, match="composition"):
        decode(model, ids, composition=compose(pool, [{"a": 1.0}], [8]))


def test_unmounting_gives_back_a_forward_that_others_had_set(model, pool):
    inner = model.forward
    model.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    theirs = model.forward
    with Mount(model, TARGETS, pool):
        assert model.forward is not theirs
    assert model.forward is theirs


def test_scope_all_equals_dense_merging(model, pool):
    atoms, ids = {"a": 0.9, "b": 0.4, "c": 1.0}, prompt(11)
    with Mount(model, TARGETS, pool, scope="all"):
        found = model(ids, composition=compose(pool, [atoms], [10])).logits
    close(found, merged(model, atoms)(ids).logits)


def test_scope_all_equals_peft_cat(model, pool):
    from peft import LoraConfig, get_peft_model

    atoms, ids = {"a": 0.8, "b": 0.5}, prompt(7)
    with Mount(model, TARGETS, pool, scope="all"):
        found = model(ids, composition=compose(pool, [atoms], [6])).logits
    settings = {
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": list(MODULES),
        "layers_to_transform": [1, 2],
    }
    peft = get_peft_model(copy.deepcopy(model), LoraConfig(**settings), adapter_name="a")
    peft.add_adapter("b", LoraConfig(**settings))
    with torch.no_grad():
        for name in atoms:
            for target, (a, bt) in zip(TARGETS, FACTORS[name], strict=True):
                module = peft.base_model.model.model.layers[target.layer].mlp.get_submodule(target.module)
                module.lora_A[name].weight.copy_(a)
                module.lora_B[name].weight.copy_(bt.T)
        peft.add_weighted_adapter(list(atoms), list(atoms.values()), "sum", combination_type="cat")
        peft.set_adapter("sum")
        close(found, peft.eval()(ids).logits)


@pytest.mark.parametrize("start", [0, 4, 9])
def test_answer_scope_equals_two_passes(model, pool, start):
    atoms, ids = {"a": 0.9, "d": 0.6}, prompt(10)
    with Mount(model, TARGETS, pool):
        out = model(ids, composition=compose(pool, [atoms], [start]))
    wanted = two_pass(model, atoms, ids, start) if start else merged(model, atoms)(ids).logits
    close(out.logits[:, start:], wanted)


def test_generation_continues_as_the_two_pass_oracle(model, pool):
    atoms, ids = {"b": 1.0, "c": 0.7}, prompt(8)
    with Mount(model, TARGETS, pool):
        found = decode(model, ids, composition=compose(pool, [atoms], [7]))
    wanted = ids
    for _ in range(6):
        next_token = two_pass(model, atoms, wanted, 7)[:, -1:].argmax(-1)
        wanted = torch.cat([wanted, next_token], dim=1)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, decode(model, ids))


def test_prefix_of_the_cache_is_free_of_atoms(model, pool):
    ids = prompt(9)
    bare = model(ids, use_cache=True).past_key_values
    with Mount(model, TARGETS, pool):
        cache = model(ids, use_cache=True, composition=compose(pool, [{"a": 1.0}], [5])).past_key_values
    for layer, (found, wanted) in enumerate(zip(cache.layers, bare.layers, strict=True)):
        assert torch.equal(found.keys[:, :, :5], wanted.keys[:, :, :5])
        assert torch.equal(found.values[:, :, :5], wanted.values[:, :, :5])
        # Layer 1 is the first that atoms adapt, so layer 2 is the first whose keys depend on them.
        assert torch.equal(found.keys[:, :, 5:], wanted.keys[:, :, 5:]) == (layer < 2)


def test_rows_of_a_left_padded_batch_equal_single_runs(model, pool):
    prompts = [prompt(length, seed=length)[0] for length in (4, 9, 6, 5)]
    rows = [{"a": 1.0}, {}, {"b": 0.8, "c": 0.9}, {"d": 0.7}]
    ids, mask = left_pad(prompts)
    with Mount(model, TARGETS, pool):
        found = decode(model, ids, attention_mask=mask, composition=compose(pool, rows, [8] * 4))
        for row, (one, atoms) in enumerate(zip(prompts, rows, strict=True)):
            alone = decode(model, one[None], composition=compose(pool, [atoms], [len(one) - 1]))
            assert torch.equal(found[row, 9:], alone[0, len(one) :])


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_right_padding(model, pool, scope):
    lengths, width = (4, 9, 6), 9
    rows, starts = [{"a": 1.0}, {"b": 0.5}, {"c": 0.9, "a": 0.3}], [2, 8, 4]
    ids = prompt(width, rows=3)
    mask = (torch.arange(width)[None] < torch.tensor(lengths)[:, None]).long()
    with Mount(model, TARGETS, pool, scope=scope):
        found = model(ids, attention_mask=mask, composition=compose(pool, rows, starts)).logits
        for row, length in enumerate(lengths):
            request = compose(pool, [rows[row]], [starts[row]])
            close(found[row, :length], model(ids[row : row + 1, :length], composition=request).logits[0])


def test_scope_all_spares_padding(model, pool):
    ids, mask = left_pad([prompt(3)[0], prompt(7)[0]])
    seen = []
    with Mount(model, TARGETS, pool, scope="all"):
        hook = model.model.layers[1].mlp.gate_proj.register_forward_hook(lambda m, i, o: seen.append(o.clone()))
        model(ids, attention_mask=mask)
        model(ids, attention_mask=mask, composition=compose(pool, [{"a": 1.0}, {"a": 1.0}], [6, 6]))
        hook.remove()
    bare, adapted = seen
    changed = (bare != adapted).any(-1)
    assert torch.equal(changed, mask.bool())


def test_prefill_in_chunks_equals_prefill_at_once(model, pool):
    ids = prompt(12)
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 1.0, "b": 0.5}], [6])
        whole = model(ids, composition=request).logits
        cache, pieces = None, []
        for piece in torch.split(ids, 5, dim=1):
            out = model(piece, past_key_values=cache, use_cache=True, composition=request)
            cache = out.past_key_values
            pieces.append(out.logits)
        close(torch.cat(pieces, dim=1), whole)
        generated = decode(model, ids, composition=request)
        assert torch.equal(decode(model, ids, composition=request, prefill_chunk_size=5), generated)


def test_generation_from_a_cached_prefix(model, pool):
    ids = prompt(10)
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 1.0}], [9])
        whole = decode(model, ids, composition=request)
        cache = model(ids[:, :6], use_cache=True).past_key_values
        assert torch.equal(decode(model, ids, past_key_values=cache, composition=request), whole)


def test_static_cache(model, pool):
    ids, mask = left_pad([prompt(5)[0], prompt(8)[0]])
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 1.0}, {"b": 1.0}], [7, 7])
        wanted = decode(model, ids, attention_mask=mask, composition=request)
        found = decode(
            model,
            ids,
            attention_mask=mask,
            composition=request,
            cache_implementation="static",
            disable_compile=True,
        )
        assert torch.equal(found, wanted)


def test_beams_and_returned_sequences_keep_their_request(model, pool):
    prompts = [prompt(6, seed=1)[0], prompt(8, seed=2)[0]]
    rows = [{"a": 1.0, "b": 0.4}, {"c": 1.0}]
    ids, mask = left_pad(prompts)
    settings = {"num_beams": 3, "num_return_sequences": 2}
    with Mount(model, TARGETS, pool):
        found = decode(model, ids, attention_mask=mask, composition=compose(pool, rows, [7, 7]), **settings)
        for row, (one, atoms) in enumerate(zip(prompts, rows, strict=True)):
            alone = decode(model, one[None], composition=compose(pool, [atoms], [len(one) - 1]), **settings)
            assert torch.equal(found[2 * row : 2 * row + 2, 8:], alone[:, len(one) :])
    # Beam search over a model whose weights are merged finds the same, as here the whole prompt is one token.
    one = prompt(1)
    with Mount(model, TARGETS, pool):
        found = decode(model, one, composition=compose(pool, [{"a": 1.0}], [0]), **settings)
    assert torch.equal(found, decode(merged(model, {"a": 1.0}), one, **settings))


def test_sampling_is_repeatable_and_equals_the_merged_model(model, pool):
    one = prompt(1)
    settings = {"max_new_tokens": 12, "do_sample": True, "num_return_sequences": 4, "temperature": 1.3}
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 1.0, "b": 1.0}], [0])
        torch.manual_seed(3)
        found = model.generate(one, composition=request, **settings)
        torch.manual_seed(3)
        assert torch.equal(model.generate(one, composition=request, **settings), found)
    torch.manual_seed(3)
    assert torch.equal(merged(model, {"a": 1.0, "b": 1.0}).generate(one, **settings), found)
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_teacher_forcing_equals_decoding(model, pool):
    ids = prompt(7)
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 0.9, "b": 0.9}], [6])
        generated = decode(model, ids, composition=request)
        logits = model(generated, composition=request).logits
    assert torch.equal(logits[:, 6:-1].argmax(-1), generated[:, 7:])


class Numbers:
    """A tokenizer for streamers: token ids as words."""

    def decode(self, ids, **_settings):
        return "".join(f"{int(i)} " for i in ids)


def test_streamer_in_another_thread(model, pool):
    ids = prompt(6)
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 1.0}], [5])
        wanted = decode(model, ids, composition=request)[0, 6:].tolist()
        streamer = TextIteratorStreamer(Numbers(), skip_prompt=True, timeout=20)
        thread = threading.Thread(
            target=decode, args=(model, ids), kwargs={"composition": request, "streamer": streamer}
        )
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert [int(word) for word in text.split()] == wanted


def test_threads_with_different_compositions(model, pool):
    ids = prompt(6)
    with Mount(model, TARGETS, pool):
        requests = [compose(pool, [{name: 1.0}], [5]) for name in "abcd"]
        wanted = [decode(model, ids, composition=request) for request in requests]
        bare = decode(model, ids)
        gate = threading.Barrier(5)

        def work(number):
            gate.wait()
            return [decode(model, ids, composition=requests[number] if number < 4 else None) for _ in range(4)]

        with ThreadPoolExecutor(5) as threads:
            found = list(threads.map(work, range(5)))
    assert len({tuple(w[0].tolist()) for w in wanted}) == 4
    for results, expected in zip(found, [*wanted, bare], strict=True):
        assert all(torch.equal(result, expected) for result in results)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_an_exception_leaves_nothing_bound(model, pool, error):
    ids = prompt(6)
    bare = model(ids).logits

    def fail(*_arguments):
        assert _bound.get() is not None
        raise error("on purpose")

    with Mount(model, TARGETS, pool):
        handle = model.model.layers[2].register_forward_hook(fail)
        with pytest.raises(error, match="on purpose"):
            model(ids, composition=compose(pool, [{"a": 1.0}], [5]))
        handle.remove()
        assert _bound.get() is None
        assert torch.equal(model(ids).logits, bare)


def test_a_forward_inside_a_forward_sees_its_own_composition(model, pool):
    ids = prompt(6)
    inner_logits = []
    bare = model(ids).logits
    with Mount(model, TARGETS, pool):
        request = compose(pool, [{"a": 1.0}], [5])
        wanted = model(ids, composition=request).logits

        def ask_again(*_arguments):
            handle.remove()
            inner_logits.append(model(ids).logits)

        handle = model.model.layers[1].register_forward_pre_hook(ask_again)
        outer = model(ids, composition=request).logits
    assert torch.equal(inner_logits[0], bare)
    assert torch.equal(outer, wanted)


def test_generate_still_refuses_unknown_keywords(model, pool):
    with Mount(model, TARGETS, pool), pytest.raises(ValueError, match="compositon"):
        decode(model, prompt(4), compositon=compose(pool, [{"a": 1.0}], [3]))


def test_positional_arguments(model, pool):
    ids, mask = left_pad([prompt(4)[0], prompt(6)[0]])
    with Mount(model, TARGETS, pool, scope="all"):
        request = compose(pool, [{"a": 1.0}, {"b": 1.0}], [5, 5])
        assert torch.equal(
            model(ids, mask, composition=request).logits,
            model(input_ids=ids, attention_mask=mask, composition=request).logits,
        )
        embedded = model.get_input_embeddings()(ids)
        close(
            model(inputs_embeds=embedded, attention_mask=mask, composition=request).logits,
            model(ids, mask, composition=request).logits,
        )


def test_bfloat16_keeps_its_dtype_and_its_value(pool):
    model = make_model().to(torch.bfloat16)
    ids, atoms = prompt(6), {"a": 0.9, "b": 0.8}
    with Mount(model, TARGETS, pool, scope="all"):
        found = model(ids, composition=compose(pool, [atoms], [5])).logits
    assert found.dtype == torch.bfloat16
    exact = merged(make_model(), atoms)(ids).logits
    bare = make_model()(ids).logits
    # bfloat16 carries 8 bits: the result must lie far nearer to the merged model than the bare base does.
    assert (found.float() - exact).abs().mean() < 0.1 * (bare - exact).abs().mean()


def test_two_pools_on_one_model(model, pool):
    other, ids = make_pool(), prompt(7)
    one = compose(pool, [{"a": 1.0}], [6])
    two = compose(other, [{"b": 1.0}], [6])
    first = Mount(model, TARGETS, pool)
    wanted_one = model(ids, composition=one).logits
    with Mount(model, TARGETS, other):
        with pytest.raises(UsageError, match="must name its own"):
            model(ids, composition=one)
        one, two = dataclasses.replace(one, pool=pool), dataclasses.replace(two, pool=other)
        assert torch.equal(model(ids, composition=one).logits, wanted_one)
        found = model(ids, composition=two).logits
        first.unmount()
        assert torch.equal(model(ids, composition=two).logits, found)
        close(found[:, 6:], two_pass(model, {"b": 1.0}, ids, 6))
        with pytest.raises(UsageError, match="not mounted"):
            model(ids, composition=one)
    assert "forward" not in vars(model)


def test_a_copy_of_a_mounted_model_is_bare_and_its_own(model, pool):
    ids = prompt(5)
    with Mount(model, TARGETS, pool):
        twin = copy.deepcopy(model)
        assert torch.equal(twin(ids).logits, model(ids).logits)
        twin.lm_head.weight.zero_()
        assert twin(ids).logits.abs().max() == 0
        assert model(ids).logits.abs().max() > 0


def test_wrong_uses_are_named(model, pool):
    with pytest.raises(BaseModelError, match="layers 0 to 2"):
        resolve_target(model, Target(layer=3, module="gate_proj", d_in=WIDTH, d_out=INNER))
    with pytest.raises(BaseModelError, match=r"not in that block.*mlp\.up_proj"):
        resolve_target(model, Target(layer=1, module="fc1", d_in=WIDTH, d_out=INNER))
    with pytest.raises(BaseModelError, match="32 to 48 features"):
        resolve_target(model, Target(layer=1, module="gate_proj", d_in=WIDTH, d_out=WIDTH))
    assert resolve_target(model, TARGETS[0]) is model.model.layers[1].mlp.gate_proj
    full_name = Target(layer=1, module="mlp.gate_proj", d_in=WIDTH, d_out=INNER)
    assert resolve_target(model, full_name) is model.model.layers[1].mlp.gate_proj
    with Mount(model, TARGETS, pool):
        with pytest.raises(UsageError, match="2 rows, the batch 3"):
            model(prompt(5, rows=3), composition=compose(pool, [{"a": 1.0}, {}], [4, 4]))
        embedded = model.get_input_embeddings()(prompt(5)).requires_grad_()
        with pytest.raises(UsageError, match="gradients"):
            model(inputs_embeds=embedded, composition=compose(pool, [{"a": 1.0}], [0]))
        assert _bound.get() is None
    with pytest.raises(UsageError, match="rows of slots"):
        composition([[0]], [[1.0]], [1, 2])
    with pytest.raises(UsageError, match="more slots"):
        composition([[0, 1]], [[1.0]], [1])


def test_unmounted_model_is_untouched_when_a_target_is_missing(model, pool):
    wrong = (*TARGETS, Target(layer=1, module="fc1", d_in=WIDTH, d_out=INNER))
    with pytest.raises(BaseModelError):
        Mount(model, wrong, pool)
    assert not any(module._forward_hooks for module in model.modules())
