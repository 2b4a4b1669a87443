"""A tiny base and random atoms loud enough to disturb each other, as a lab and as a store."""

import hashlib

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atomlora.atom import Atom, Provenance, Target, TrainRecord, atom_identity, record_size
from atomlora.bases import Base, fingerprint
from atomlora.interference.lab import Lab
from atomlora.questions.types import Question
from atomlora.runtime.keys import store_keys
from atomlora.store import ModelName, Store, weights_digest

FACTS = (
    ("Ferry", "The ferry Marla leaves at nine.", "When does the ferry leave?", "nine"),
    ("Ferry", "Captain Osk steers the ferry.", "Who steers the ferry?", "Osk"),
    ("Tower", "The tower was built of slate.", "What was the tower built of?", "slate"),
    ("Garden", "Plums grow in the garden.", "Which fruit grows in the garden?", "Plums"),
    ("Garden", "The garden wall was built of slate.", "What was the wall built of?", "slate"),
)
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|done|> {% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)
WIDTH, INNER = 32, 48
TARGETS = tuple(
    Target(layer=layer, module=f"mlp.{name}", d_in=d_in, d_out=d_out)
    for layer in (1, 2)
    for name, d_in, d_out in (("gate_proj", WIDTH, INNER), ("up_proj", WIDTH, INNER), ("down_proj", INNER, WIDTH))
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


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def embedder():
    return WordEmbedder()


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """A random Llama of three layers over a vocabulary of words, larger than the shared candidates."""
    words = {word for fact in FACTS for text in fact for word in text.replace("?", " ? ").replace(".", " . ").split()}
    words |= {"user", "assistant", "Use", "this", "text", "to", "answer", "Question", ":", ".", "?", "What", "about"}
    words |= {"Tell", "me", "do", "you", "know"}
    tokens = ["<|end|>", "<|turn|>", "<|done|>", "<unk>", *(f"w{i}" for i in range(1250)), *sorted(words)]
    inner = Tokenizer(models.WordLevel({token: number for number, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<|end|>", "<|turn|>", "<|done|>"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(0)
    config = LlamaConfig(
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
    model = LlamaForCausalLM(config).eval().requires_grad_(False)
    folder = tmp_path_factory.mktemp("base")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Base(name=str(folder), fingerprint=fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


def made(base, number, seed=None, loudness=0.4, rank=4):
    """An atom of FACTS and its record, bfloat16 bits of random factors."""
    title, text, question, answer = FACTS[number]
    random = np.random.default_rng(number if seed is None else seed)
    values = random.normal(0, loudness, record_size(rank, TARGETS)).astype(np.float32)
    record = (values.view(np.uint32) >> 16).astype(np.uint16)
    questions = (Question(text=question, answer=answer, kind="written"),)
    start = 40 * number
    place = Provenance(source=f"{title.lower()}.md", start=start, end=start + len(text), source_sha256="0" * 64)
    atom = Atom(
        id=atom_identity(base.fingerprint, "recipe", title, (), text, questions),
        type="statement",
        title=title,
        text=text,
        questions=questions,
        rank=rank,
        alpha=8.0,
        record=TrainRecord(steps=1, loss=0.0, recall=1.0, seconds=0.0),
        weights_digest=weights_digest(record),
        provenances=(place,),
    )
    return atom, record


@pytest.fixture(scope="session")
def items(base):
    """(atom, record) of every fact; one atom is of smaller rank."""
    return [made(base, number, rank=2 if number == 2 else 4) for number in range(len(FACTS))]


@pytest.fixture(scope="session")
def records(items):
    """{atom id: record}."""
    return {atom.id: record for atom, record in items}


@pytest.fixture
def lab(base, items, records):
    lab = Lab(base, TARGETS)
    lab.mount([atom for atom, _ in items], lambda atom: records[atom.id])
    return lab


@pytest.fixture
def make_store(base, embedder, tmp_path):
    """make(items, interference, conflicts) -> path of a store of these atoms; made again, it gets a next version."""

    def make(items, interference=None, conflicts=(), path=tmp_path / "facts.atoms"):
        atoms = [atom for atom, _ in items]
        keys = store_keys(atoms)
        with Store.writer(path) as writer:
            writer.write_segment(items)
            writer.commit(
                atoms,
                (
                    embedder.encode([text for _, text in keys]),
                    np.array([position for position, _ in keys], np.int32),
                ),
                base=ModelName(name=base.name, fingerprint=base.fingerprint),
                embedder=ModelName(name=embedder.name, fingerprint=embedder.fingerprint),
                settings={"adapter": {"rank": 4, "scope": "answer"}},
                recipe="recipe",
                targets=TARGETS,
                calibration={"threshold": 0.0},  # never abstains
                interference=interference,
                conflicts=conflicts,
            )
        return path

    return make
