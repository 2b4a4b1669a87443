"""Whole compiles and answers over bases that differ from the embedded one as real ones do."""

import pytest
import torch
from tiny_base import TEMPLATE, save_base, tiny_base, word_tokenizer, words_in
from tiny_store import WordEmbedder
from transformers import PreTrainedTokenizerFast

from atomlora.compiler.compile import compile_corpus
from atomlora.model import AtomLoRA
from atomlora.prompts import answer_ids, chat_prompt, end_ids
from atomlora.router import Route, RoutedAtom
from atomlora.router.general_questions import GENERAL_QUESTIONS
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store
from atomlora.training import whitening
from atomlora.training.pool_facts import POOL_FACTS
from atomlora.wordings import training_wordings

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 0,
}
# What the embedded base has not: biases, a head of its own, another rotary base; norms of queries and keys; capped
# logits, windows and norms behind the sub-layers; scaled logits, embeddings and residuals; gate and up in one layer.
BASES = {
    "Qwen2": {"tie_word_embeddings": False, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}},
    "Qwen3": {"tie_word_embeddings": True},
    "Gemma2": {"sliding_window": 64, "query_pre_attn_scalar": 8, "final_logit_softcapping": 30.0},
    "Granite": {
        "tie_word_embeddings": True,
        "logits_scaling": 0.5,
        "residual_multiplier": 0.7,
        "embedding_multiplier": 2.0,
    },
    "Phi3": {"tie_word_embeddings": False, "sliding_window": None},
}
# As Qwen's: a system turn that nobody wrote. A turn ends with a mark that the tokenizer does not call its end.
WITH_SYSTEM = "<|turn|> system You answer here <|done|> " + TEMPLATE
SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=4, layers="late:2"),
    train=TrainSettings(pool_atoms=1, max_steps=400, rows_per_step=8, silence_tokens=2, pass_probability=0.6),
    question_writer="none",
    max_questions=2,
    slots=4,
)


@pytest.fixture
def folder(request, tmp_path):
    """The base of this architecture, saved in float16 as hubs have them, with a tokenizer of words."""
    texts = [*GENERAL_QUESTIONS, *(part for t, x, qs in POOL_FACTS for part in (t, x, *qs))]
    texts += [
        "The ferry Marla leaves Dunmarrow at 9 every day Captain Osk Berrin steers since 1987 Plums grow 14 walls"
    ]
    texts += ["user assistant system You answer here Fill in the blank ____ What about Tell me know Question Answer"]
    tokenizer = word_tokenizer(words_in(*texts), WITH_SYSTEM)
    config = {**SIZES, "vocab_size": len(tokenizer), **BASES[request.param]}
    model = tiny_base(request.param, config)
    model.model.norm.weight.fill_(2.5)  # so narrow a state can be sure
    if request.param == "Gemma2":  # which norms what an MLP adds, so that little could be said
        for block in model.model.layers[-2:]:
            block.post_feedforward_layernorm.weight.fill_(4.0)
    return save_base(tmp_path / request.param, model.half(), tokenizer)


@pytest.mark.parametrize(
    ("folder", "widest"),
    [*((name, whitening.WIDEST_DENSE) for name in BASES), ("Qwen2", 40)],
    indirect=["folder"],
    ids=[*BASES, "Qwen2 with wide inputs sketched"],
)
@pytest.mark.usefixtures("real_pace")
def test_documents_become_answers(folder, widest, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(whitening, "WIDEST_DENSE", widest)
    # By the base's type it would be read as that type's own, which knows no words.
    monkeypatch.setattr("transformers.AutoTokenizer", PreTrainedTokenizerFast)
    embedder = WordEmbedder(128)
    monkeypatch.setattr("atomlora.compiler.plan.load_embedder", lambda *_args, **_named: embedder)
    monkeypatch.setattr("atomlora.router.embedder.load_embedder", lambda *_args, **_named: embedder)
    root = tmp_path / "documents"
    root.mkdir()
    (root / "ferry.md").write_text("# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day.\n")
    (root / "captain.md").write_text("# Captain\n\nCaptain Osk Berrin steers the Marla since 1987.\n")
    report = compile_corpus([root], tmp_path / "store", SETTINGS, base=str(folder), device="cpu")
    assert (report.atoms_total, report.atoms_failed) == (2, 0)
    with Store.open(tmp_path / "store") as store:
        modules = {target.module for target in store.manifest.targets}
    first = {"mlp.gate_up_proj"} if folder.name == "Phi3" else {"mlp.gate_proj", "mlp.up_proj"}
    assert modules == first | {"mlp.down_proj"}
    with AtomLoRA.open(tmp_path / "store", device="cpu") as model:
        assert model.base.model.dtype == torch.float32
        tokenizer = model.base.tokenizer
        assert end_ids(tokenizer, model.base.model)[0] == tokenizer.convert_tokens_to_ids("<|done|>")
        for atom in model.atoms.values():
            for asked, stated in training_wordings(atom):
                prompt = chat_prompt(tokenizer, asked)
                alone = Route(
                    question=asked,
                    atoms=(RoutedAtom(id=atom.id, weight=1.0, score=1.0),),
                    abstained=False,
                    confidence=1.0,
                )
                with model.compose(alone) as composed:
                    out = composed.generate(torch.tensor([prompt]), max_new_tokens=24, do_sample=False)
                wanted = answer_ids(tokenizer, stated)
                assert out[0, len(prompt) :].tolist()[: len(wanted)] == wanted
        answer = model.ask("Who steers the Marla?", mode="text", max_new_tokens=3)
        assert "system You answer here" in tokenizer.decode(chat_prompt(tokenizer, "Who?"))
        assert answer.prompt_tokens > len(chat_prompt(tokenizer, "Who steers the Marla?"))
