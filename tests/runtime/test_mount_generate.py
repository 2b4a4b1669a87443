"""`generate` with atoms mounted: caches, padding, beams, sampling, streams and threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import tiny_mount as tiny
import torch
from transformers import TextIteratorStreamer

from atomlora.runtime.mount import Mount


def test_generation_continues_as_the_two_pass_oracle(model, pool):
    atoms, ids = {"b": 1.0, "c": 0.7}, tiny.prompt(8)
    with Mount(model, tiny.TARGETS, pool):
        found = tiny.decode(model, ids, composition=tiny.compose(pool, [atoms], [7]))
    wanted = ids
    for _ in range(6):
        next_token = tiny.two_pass(model, atoms, wanted, 7)[:, -1:].argmax(-1)
        wanted = torch.cat([wanted, next_token], dim=1)
    assert torch.equal(found, wanted)
    assert not torch.equal(found, tiny.decode(model, ids))


def test_rows_of_a_left_padded_batch_equal_single_runs(model, pool):
    prompts = [tiny.prompt(length, seed=length)[0] for length in (4, 9, 6, 5)]
    rows = [{"a": 1.0}, {}, {"b": 0.8, "c": 0.9}, {"d": 0.7}]
    ids, mask = tiny.left_pad(prompts)
    with Mount(model, tiny.TARGETS, pool):
        found = tiny.decode(model, ids, attention_mask=mask, composition=tiny.compose(pool, rows, [8] * 4))
        for row, (one, atoms) in enumerate(zip(prompts, rows, strict=True)):
            alone = tiny.decode(model, one[None], composition=tiny.compose(pool, [atoms], [len(one) - 1]))
            assert torch.equal(found[row, 9:], alone[0, len(one) :])


def test_prefill_in_chunks_equals_prefill_at_once(model, pool):
    ids = tiny.prompt(12)
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 1.0, "b": 0.5}], [6])
        whole = model(ids, composition=request).logits
        cache, pieces = None, []
        for piece in torch.split(ids, 5, dim=1):
            out = model(piece, past_key_values=cache, use_cache=True, composition=request)
            cache = out.past_key_values
            pieces.append(out.logits)
        tiny.assert_close(torch.cat(pieces, dim=1), whole)
        generated = tiny.decode(model, ids, composition=request)
        assert torch.equal(tiny.decode(model, ids, composition=request, prefill_chunk_size=5), generated)


def test_generation_from_a_cached_prefix(model, pool):
    ids = tiny.prompt(10)
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 1.0}], [9])
        whole = tiny.decode(model, ids, composition=request)
        cache = model(ids[:, :6], use_cache=True).past_key_values
        assert torch.equal(tiny.decode(model, ids, past_key_values=cache, composition=request), whole)


def test_static_cache(model, pool):
    ids, mask = tiny.left_pad([tiny.prompt(5)[0], tiny.prompt(8)[0]])
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 1.0}, {"b": 1.0}], [7, 7])
        wanted = tiny.decode(model, ids, attention_mask=mask, composition=request)
        found = tiny.decode(
            model,
            ids,
            attention_mask=mask,
            composition=request,
            cache_implementation="static",
            disable_compile=True,
        )
        assert torch.equal(found, wanted)


def test_beams_and_returned_sequences_keep_their_request(model, pool):
    prompts = [tiny.prompt(6, seed=1)[0], tiny.prompt(8, seed=2)[0]]
    rows = [{"a": 1.0, "b": 0.4}, {"c": 1.0}]
    ids, mask = tiny.left_pad(prompts)
    settings = {"num_beams": 3, "num_return_sequences": 2}
    with Mount(model, tiny.TARGETS, pool):
        found = tiny.decode(model, ids, attention_mask=mask, composition=tiny.compose(pool, rows, [7, 7]), **settings)
        for row, (one, atoms) in enumerate(zip(prompts, rows, strict=True)):
            alone = tiny.decode(model, one[None], composition=tiny.compose(pool, [atoms], [len(one) - 1]), **settings)
            assert torch.equal(found[2 * row : 2 * row + 2, 8:], alone[:, len(one) :])
    # Beam search over a model whose weights are merged finds the same, as here the whole prompt is one token.
    one = tiny.prompt(1)
    with Mount(model, tiny.TARGETS, pool):
        found = tiny.decode(model, one, composition=tiny.compose(pool, [{"a": 1.0}], [0]), **settings)
    assert torch.equal(found, tiny.decode(tiny.merged(model, {"a": 1.0}), one, **settings))


def test_sampling_is_repeatable_and_equals_the_merged_model(model, pool):
    one = tiny.prompt(1)
    settings = {"max_new_tokens": 12, "do_sample": True, "num_return_sequences": 4, "temperature": 1.3}
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 1.0, "b": 1.0}], [0])
        torch.manual_seed(3)
        found = model.generate(one, composition=request, **settings)
        torch.manual_seed(3)
        assert torch.equal(model.generate(one, composition=request, **settings), found)
    torch.manual_seed(3)
    assert torch.equal(tiny.merged(model, {"a": 1.0, "b": 1.0}).generate(one, **settings), found)
    assert len({tuple(row) for row in found.tolist()}) > 1


def test_teacher_forcing_equals_decoding(model, pool):
    ids = tiny.prompt(7)
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 0.9, "b": 0.9}], [6])
        generated = tiny.decode(model, ids, composition=request)
        logits = model(generated, composition=request).logits
    assert torch.equal(logits[:, 6:-1].argmax(-1), generated[:, 7:])


class Numbers:
    """A tokenizer for streamers: token ids as words."""

    def decode(self, ids, **_settings):
        return "".join(f"{int(i)} " for i in ids)


def test_streamer_in_another_thread(model, pool):
    ids = tiny.prompt(6)
    with Mount(model, tiny.TARGETS, pool):
        request = tiny.compose(pool, [{"a": 1.0}], [5])
        wanted = tiny.decode(model, ids, composition=request)[0, 6:].tolist()
        streamer = TextIteratorStreamer(Numbers(), skip_prompt=True, timeout=20)
        thread = threading.Thread(
            target=tiny.decode, args=(model, ids), kwargs={"composition": request, "streamer": streamer}
        )
        thread.start()
        text = "".join(streamer)
        thread.join()
    assert [int(word) for word in text.split()] == wanted


def test_threads_with_different_compositions(model, pool):
    ids = tiny.prompt(6)
    with Mount(model, tiny.TARGETS, pool):
        requests = [tiny.compose(pool, [{name: 1.0}], [5]) for name in "abcd"]
        wanted = [tiny.decode(model, ids, composition=request) for request in requests]
        bare = tiny.decode(model, ids)
        gate = threading.Barrier(5)

        def work(number):
            gate.wait()
            return [tiny.decode(model, ids, composition=requests[number] if number < 4 else None) for _ in range(4)]

        with ThreadPoolExecutor(5) as threads:
            found = list(threads.map(work, range(5)))
    assert len({tuple(w[0].tolist()) for w in wanted}) == 4
    for results, expected in zip(found, [*wanted, bare], strict=True):
        assert all(torch.equal(result, expected) for result in results)


def test_generate_still_refuses_unknown_keywords(model, pool):
    with Mount(model, tiny.TARGETS, pool), pytest.raises(ValueError, match="compositon"):
        tiny.decode(model, tiny.prompt(4), compositon=tiny.compose(pool, [{"a": 1.0}], [3]))
