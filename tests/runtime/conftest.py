"""A tiny base, an embedder of words and a store of random atoms: all that `AtomLoRA` needs, made in a
second."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atomlora.atom import Atom, Provenance, Target, TrainRecord, atom_identity, record_size
from atomlora.bases import Base, fingerprint
from atomlora.questions.types import Question
from atomlora.runtime.keys import store_keys
from atomlora.store import ModelName, Store, weights_digest

FACTS = (
    ("Ferry", "The ferry Marla leaves at nine.", "When does the ferry leave?", "nine"),
    ("Ferry", "Captain Osk steers the ferry.", "Who steers the ferry?", "Osk"),
    ("Tower", "The tower was built of slate.", "What was the tower built of?", "slate"),
    ("Garden", "Plums grow in the garden.", "Which fruit grows in the garden?", "Plums"),
)
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|done|> {% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)
WIDTH, INNER, RANK = 32, 48, 4
TARGETS = tuple(
    Target(layer=layer, module=name, d_in=d_in, d_out=d_out)
    for layer in (1, 2)
    for name, d_in, d_out in (
        ("gate_proj", WIDTH, INNER),
        ("up_proj", WIDTH, INNER),
        ("down_proj", INNER, WIDTH),
    )
)


class WordEmbedder:
    """Bags of words in 256 hashed dimensions."""

    name = "words"
    fingerprint = "f" * 64
    dimension = 256

    def __init__(self):
        self.calls = 0

    def encode(self, texts):
        self.calls += 1
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in text.lower().replace("?", " ").replace(".", " ").split():
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


def make_base(seed=0, name="tiny"):
    """A random Llama of three layers over a vocabulary of words."""
    words = {word for fact in FACTS for text in fact for word in text.replace("?", " ? ").split()}
    words |= {"user", "assistant", "Use", "this", "text", "to", "answer", "Question", ":", ".", "?"}
    tokens = ["<|end|>", "<|turn|>", "<|done|>", "<unk>", *sorted(words), *(f"w{i}" for i in range(60))]
    inner = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<|end|>", "<|turn|>", "<|done|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokens),
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=3,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=128,
            initializer_range=0.3,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=0,
        )
    )
    model.eval().requires_grad_(False)
    return Base(name=name, fingerprint=fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


def make_record(seed):
    """bfloat16 bits of random factors, as the store keeps them."""
    values = np.random.default_rng(seed).normal(0, 0.4, record_size(RANK, TARGETS)).astype(np.float32)
    return (values.view(np.uint32) >> 16).astype(np.uint16)


def make_atom(number, base, record, recall=1.0):
    title, text, question, answer = FACTS[number]
    questions = (Question(text=question, answer=answer, kind="user"),)
    return Atom(
        id=atom_identity(base.fingerprint, "recipe", title, (), text, questions),
        type="statement",
        title=title,
        text=text,
        questions=questions,
        rank=RANK,
        alpha=8.0,
        record=TrainRecord(steps=1, loss=0.0, recall=recall, seconds=0.0),
        weights_digest=weights_digest(record),
        provenances=(
            Provenance(source=f"{title.lower()}.md", start=number, end=number + len(text), source_sha256="0" * 64),
        ),
    )


@dataclass
class World:
    """What a test needs of the store."""

    base: Base
    path: object
    atoms: list
    records: list
    embedder: WordEmbedder


@pytest.fixture
def world(tmp_path):
    base, embedder = make_base(), WordEmbedder()
    records = [make_record(number) for number in range(len(FACTS))]
    atoms = [make_atom(number, base, record) for number, record in enumerate(records)]
    texts = store_keys(atoms)
    with Store.writer(tmp_path / "store") as writer:
        writer.write_segment(list(zip(atoms, records, strict=True)))
        writer.commit(
            atoms,
            (
                embedder.encode([text for _, text in texts]),
                np.array([position for position, _ in texts], np.int32),
            ),
            base=ModelName(name=base.name, fingerprint=base.fingerprint),
            embedder=ModelName(name=embedder.name, fingerprint=embedder.fingerprint),
            settings={"adapter": {"rank": RANK, "scope": "answer"}},
            recipe="recipe",
            targets=TARGETS,
        )
    return World(base, tmp_path / "store", atoms, records, embedder)
