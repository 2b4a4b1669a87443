"""A tiny base in a folder, an embedder of words, and a store of random atoms, all openable by name."""

import hashlib
import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atomlora.atom import Atom, Provenance, Target, TrainRecord, atom_identity, record_size
from atomlora.bases import load_base
from atomlora.cli import main
from atomlora.questions.types import Question
from atomlora.runtime.keys import store_keys
from atomlora.store import ModelName, Store, weights_digest

FACTS = (
    ("Ferry", "The ferry Marla leaves at nine.", "When does the ferry leave?", "nine"),
    ("Ferry", "Captain Osk steers the ferry.", "Who steers the ferry?", "Osk"),
    ("Tower", "The tower was built of slate.", "What was the tower built of?", "slate"),
    ("Garden", "Plums grow in the garden.", "Which fruit grows in the garden?", "Plums"),
)
TARGETS = tuple(
    Target(layer=1, module=name, d_in=d_in, d_out=d_out)
    for name, d_in, d_out in (("gate_proj", 16, 24), ("up_proj", 16, 24), ("down_proj", 24, 16))
)
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|done|> {% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)


class WordEmbedder:
    """Bags of words in 256 hashed dimensions."""

    name = "words"
    fingerprint = "f" * 64
    dimension = 256

    def encode(self, texts):
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace("?", " ").replace(".", " ").split():
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def save_base(folder, seed):
    """A random Llama of two layers over a vocabulary of words."""
    words = {word for fact in FACTS for text in fact for word in text.replace("?", " ").replace(".", " ").split()}
    words |= {"user", "assistant", "Use", "this", "text", "to", "answer", "Question", ":", ".", "?"}
    tokens = ["<|end|>", "<|turn|>", "<|done|>", "<unk>", *sorted(words)]
    inner = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<|end|>", "<|turn|>", "<|done|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"), seed=0)


@pytest.fixture(scope="session")
def other_base_folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("other-base"), seed=1)


@pytest.fixture
def words(monkeypatch):
    """The embedder of words under every name."""
    embedder = WordEmbedder()
    monkeypatch.setattr("atomlora.router.embedder.load_embedder", lambda *_args, **_named: embedder)
    return embedder


@pytest.fixture
def store(tmp_path, base_folder, words):
    """A store of four atoms, two of them from ferry.md."""
    base = load_base(str(base_folder), "cpu")
    atoms, records = [], []
    for number, (title, text, question, answer) in enumerate(FACTS):
        values = np.random.default_rng(number).normal(0, 0.4, record_size(2, TARGETS)).astype(np.float32)
        records.append((values.view(np.uint32) >> 16).astype(np.uint16))
        questions = (Question(text=question, answer=answer, kind="user"),)
        start = 40 * number
        place = Provenance(source=f"{title.lower()}.md", start=start, end=start + len(text), source_sha256="0" * 64)
        atoms.append(
            Atom(
                id=atom_identity(base.fingerprint, "recipe", title, (), text, questions),
                type="statement",
                title=title,
                text=text,
                questions=questions,
                rank=2,
                alpha=4.0,
                record=TrainRecord(steps=1, loss=0.0, recall=1.0, seconds=0.0),
                weights_digest=weights_digest(records[-1]),
                provenances=(place,),
            )
        )
    keys = store_keys(atoms)
    path = tmp_path / "facts.atoms"
    with Store.writer(path) as writer:
        writer.write_segment(list(zip(atoms, records, strict=True)))
        writer.commit(
            atoms,
            (
                words.encode([text for _, text in keys]),
                np.array([position for position, _ in keys], np.int32),
            ),
            base=ModelName(name=str(base_folder), fingerprint=base.fingerprint),
            embedder=ModelName(name=words.name, fingerprint=words.fingerprint),
            settings={"adapter": {"rank": 2, "scope": "answer"}},
            recipe="recipe",
            targets=TARGETS,
            calibration={"threshold": 0.0},  # never abstains
        )
    return path


@pytest.fixture
def run():
    """Runs the command line in this process; anything but a planned exit is an error of the test."""

    def invoke(*arguments, stdin=None):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments], input=stdin)
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


@pytest.fixture
def golden(tmp_path):
    """A golden file for the store."""
    lines = [
        {"question": question, "answer": answer, "source": f"{title.lower()}.md"}
        for title, _text, question, answer in FACTS
    ]
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines) + "\n")
    return path
