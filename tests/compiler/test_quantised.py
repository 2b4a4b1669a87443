"""Bases in 8 and 4 bits: what they are called, that they compute nearly what the base computes, whole compiles."""

import importlib.util
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, LlamaForCausalLM

from atomlora.bases import blocks, load_base
from atomlora.compiler.compile import compile_corpus
from atomlora.errors import BaseModelError, UsageError
from atomlora.model import AtomLoRA
from atomlora.quantised import dense_weight, quantised_name, split_name
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=4, layers="late:2"),
    train=TrainSettings(pool_atoms=1, max_steps=400, rows_per_step=8, silence_tokens=2, pass_probability=0.6),
    question_writer="none",
    max_questions=2,
)
ERRORS = {"int8": 0.02, "nf4": 0.15}  # of weights, relative


@pytest.fixture(params=["int8", "nf4"])
def kind(request):
    pytest.importorskip({"int8": "torchao", "nf4": "bitsandbytes"}[request.param])
    return request.param


@pytest.fixture(scope="session")
def wide_folder(base_folder, tmp_path_factory):
    """A base whose layers are wide enough for blocks of 64, with the tiny base's tokenizer."""
    folder = tmp_path_factory.mktemp("wide")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(base_folder)
    config.update({"hidden_size": 64, "intermediate_size": 128, "head_dim": 16})
    model = LlamaForCausalLM(config)
    model.model.norm.weight.data.fill_(2.5)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(base_folder).save_pretrained(folder)
    return folder


def test_names(tmp_path):
    assert split_name("a/b+int8") == ("a/b", "int8")
    assert split_name("a/b+c") == ("a/b+c", None)
    assert split_name("+nf4") == ("+nf4", None)
    (tmp_path / "m+nf4").mkdir()
    assert split_name(str(tmp_path / "m+nf4"))[1] is None
    assert [quantised_name("m", kind) for kind in (None, "none", "nf4")] == ["m", "m", "m+nf4"]
    assert quantised_name("m+nf4", None) == quantised_name("m+nf4", "nf4") == "m+nf4"
    for other in ("none", "int8"):
        with pytest.raises(UsageError, match="is quantised"):
            quantised_name("m+nf4", other)


def test_a_missing_package_is_named(base_folder, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda *_: None)
    with pytest.raises(BaseModelError, match=r"nf4 needs the package bitsandbytes; .*atomlora\[quantised\]"):
        load_base(f"{base_folder}+nf4", "cpu")


def test_widths_that_nf4_cannot_have(base_folder):
    pytest.importorskip("bitsandbytes")
    with pytest.raises(BaseModelError, match=r"32 inputs, no multiple of 64.*take int8"):
        load_base(f"{base_folder}+nf4", "cpu")


def test_it_is_another_base_that_computes_nearly_the_same(wide_folder, kind):
    plain, quantised = load_base(str(wide_folder), "cpu"), load_base(f"{wide_folder}+{kind}", "cpu")
    assert quantised.name == f"{wide_folder}+{kind}"
    assert quantised.fingerprint == load_base(f"{wide_folder}+{kind}", "cpu").fingerprint != plain.fingerprint
    module, exact = blocks(quantised.model)[1].mlp.down_proj, blocks(plain.model)[1].mlp.down_proj
    weight = dense_weight(module)
    assert (weight - exact.weight).norm() < ERRORS[kind] * exact.weight.norm()
    assert dense_weight(exact) is not None
    x = torch.randn(5, exact.in_features)
    wanted = x @ weight.T
    torch.testing.assert_close(module(x), wanted, atol=0.02 * float(wanted.abs().max()), rtol=0)
    # Rows do not see each other.
    torch.testing.assert_close(module(x)[:1], module(torch.cat([x[:1], 50 * x[1:]]))[:1], atol=1e-5, rtol=1e-5)


def test_compile_and_ask(tiny_world, wide_folder, documents, tmp_path, kind, monkeypatch):
    name = f"{wide_folder}+{kind}"
    report = compile_corpus([documents], tmp_path / "store", SETTINGS, base=name, device="cpu")
    assert (report.atoms_total, report.atoms_failed) == (4, 0)
    monkeypatch.setattr("atomlora.router.embedder.load_embedder", lambda *_args, **_named: tiny_world.embedder)
    for base in (None, str(wide_folder)):  # a folder stands for the base as the store has it
        with AtomLoRA.open(tmp_path / "store", base, "cpu") as model:
            assert model.base.fingerprint == load_base(name, "cpu").fingerprint
            answer = model.ask("Who steers the Marla?", mode="atoms")
            assert answer.atoms
    again = compile_corpus([documents], tmp_path / "store", SETTINGS, base=name, device="cpu")
    assert (again.atoms_new, again.atoms_kept) == (0, 4)
    other = compile_corpus([documents], tmp_path / "store", SETTINGS, base=str(wide_folder), device="cpu")
    assert (other.atoms_new, other.atoms_kept) == (4, 0)
    with pytest.raises(BaseModelError, match="was compiled for base"):
        _ = AtomLoRA.open(tmp_path / "store", load_base(name, "cpu"), "cpu").base


@pytest.mark.parametrize(("named", "wanted"), [(None, "the store's+nf4"), ("another", "another+nf4")])
def test_without_a_name_the_stores_own_base_is_quantised(documents, tmp_path, monkeypatch, named, wanted):
    def refuse(name, *_):
        raise BaseModelError(f"asked for {name}")

    head = SimpleNamespace(base=SimpleNamespace(name="the store's"))
    writer = nullcontext(SimpleNamespace(head=head))
    monkeypatch.setattr("atomlora.compiler.compile.Store", SimpleNamespace(writer=lambda _: writer))
    monkeypatch.setattr("atomlora.compiler.compile.load_base", refuse)
    with pytest.raises(BaseModelError) as raised:
        compile_corpus([documents], tmp_path / "store", SETTINGS, base=named, base_quantisation="nf4")
    assert str(raised.value) == f"asked for {wanted}"
