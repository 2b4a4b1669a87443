"""A tiny base, an embedder of words and a store of random atoms: all that `AtomLoRA` needs, made in a second; and,
without a store, a random model with factors to mount and what they must come to."""

import copy
import hashlib
from dataclasses import dataclass
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atomlora import AtomLoRA
from atomlora.atom import Atom, Provenance, Target, TrainRecord, atom_identity, record_size
from atomlora.bases import Base, fingerprint
from atomlora.kernels import AdapterPool
from atomlora.questions.types import Question
from atomlora.router import RouterSettings
from atomlora.runtime.composition import composition
from atomlora.runtime.keys import store_keys
from atomlora.runtime.mount import pool_targets
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


def make_llama(seed, vocabulary, **special):
    """A random Llama of three layers."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=0,
        **special,
    )
    return LlamaForCausalLM(config).eval().requires_grad_(False)


def make_base(seed=0, name="tiny"):
    """A random Llama over a vocabulary of words."""
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
    model = make_llama(seed, len(tokens), bos_token_id=None, eos_token_id=0)
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

    @property
    def settings(self):
        """What the store is opened with: its own base and embedder, no silence, and no asking again, which atoms of
        random numbers would always need."""
        router = RouterSettings(abstain=False, min_weight=0.0)
        return {"base": self.base, "embedder": self.embedder, "router": router, "steady": 0.0}


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


@pytest.fixture
def opened(world):
    with AtomLoRA.open(world.path, **world.settings) as model:
        yield model


VOCABULARY, MOUNT_RANK, MOUNT_ALPHA = 97, 3, 6.0
SCALING = MOUNT_ALPHA / MOUNT_RANK


def make_model():
    return make_llama(0, VOCABULARY, bos_token_id=1, eos_token_id=None)


def make_factors(seed):
    generator = torch.Generator().manual_seed(seed)
    return [
        (
            torch.randn((MOUNT_RANK, t.d_in), generator=generator) * 0.3,
            torch.randn((MOUNT_RANK, t.d_out), generator=generator) * 0.3,
        )
        for t in TARGETS
    ]


FACTORS = {name: make_factors(seed) for seed, name in enumerate("abcd", start=10)}


def make_pool():
    return AdapterPool(pool_targets(TARGETS), capacity=6, rank=MOUNT_RANK, dtype=torch.float32)


def compose(pool, rows, answer_start):
    """rows: one {atom name: weight} per request row."""
    slots = [pool.acquire(list(row), lambda name: (FACTORS[name], SCALING)) for row in rows]
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


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def left_pad(prompts):
    width = max(len(p) for p in prompts)
    ids = torch.stack([torch.cat([torch.zeros(width - len(p), dtype=torch.long), p]) for p in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(p) for p in prompts]).long()
    return ids, mask


def decode(model, ids, steps=6, **settings):
    return model.generate(ids, max_new_tokens=steps, do_sample=False, **settings)


@pytest.fixture
def tiny():
    """The helpers above for tests of mounting, which cannot import this file."""
    functions = (make_model, make_pool, compose, merged, prompt, two_pass, assert_close, left_pad, decode)
    names = {function.__name__: function for function in functions}
    return SimpleNamespace(**names, targets=TARGETS, factors=FACTORS, rank=MOUNT_RANK, alpha=MOUNT_ALPHA)


@pytest.fixture
def model():
    return make_model()


@pytest.fixture
def pool():
    return make_pool()
