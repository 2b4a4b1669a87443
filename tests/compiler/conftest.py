"""Tiny random bases: weights only for the parts that see token ids, a folder with a tokenizer for whole compiles."""

import hashlib
import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atomlora.atom import Target
from atomlora.compiler.pool_facts import POOL_FACTS
from atomlora.compiler.trunk import Example
from atomlora.router.general_questions import GENERAL_QUESTIONS

WIDTH, INNER, LAYERS = 32, 48, 3
TARGETS = tuple(
    Target(layer=layer, module=f"mlp.{name}", d_in=d_in, d_out=d_out)
    for layer in (1, 2)
    for name, d_in, d_out in (("gate_proj", WIDTH, INNER), ("up_proj", WIDTH, INNER), ("down_proj", INNER, WIDTH))
)
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|done|> {% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_llama(vocabulary, seed=0):
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=INNER,
            num_hidden_layers=LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.3,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=0,
        )
    )
    model.eval().requires_grad_(False)
    # So narrow a hidden state could not make any of 1300 tokens likely: its length bounds the logits.
    model.model.norm.weight.fill_(2.5)
    return model


@pytest.fixture(scope="session")
def llama():
    """A random Llama of three layers whose vocabulary is larger than the shared candidates."""
    return tiny_llama(1300)


@pytest.fixture(scope="session")
def targets():
    """Every MLP layer of the last two blocks of `llama`."""
    return TARGETS


@pytest.fixture
def make_examples():
    """make(count, seed, prefix, prompt lengths, answer lengths) -> examples of random token ids."""

    def make(count, seed=0, prefix=(), prompts=(3, 9), answers=(1, 6), vocabulary=1300):
        random = np.random.default_rng(seed)

        def ids(low, high):
            return tuple(random.integers(1, vocabulary, random.integers(low, high + 1)).tolist())

        return [Example((*prefix, *ids(*prompts)), ids(*answers)) for _ in range(count)]

    return make


class WordEmbedder:
    """Bags of words in 128 hashed dimensions."""

    name = "words"
    fingerprint = "f" * 64
    dimension = 128

    def encode(self, texts):
        vectors = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in enumerate(texts):
            for word in re.findall(r"\w+", text.lower()):
                vectors[row, int(hashlib.sha256(word.encode()).hexdigest(), 16) % self.dimension] += 1
        return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)


DOCUMENTS = {
    "ferry.md": (
        "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day. Captain Osk Berrin steers the Marla since 1987.\n"
    ),
    "tower.md": "# Tower\n\nThe north tower of Keldan was built of slate in 1822.\n",
    "notes/garden.md": "# Garden\n\nPlums from Orvane grow behind the 14 walls.\n",
}


@pytest.fixture
def documents(tmp_path):
    """A folder of three documents with four sentences."""
    root = tmp_path / "documents"
    for name, text in DOCUMENTS.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    """A tiny Llama with a tokenizer of words, saved as a model folder."""
    texts = [*DOCUMENTS.values(), *GENERAL_QUESTIONS, *(part for t, x, qs in POOL_FACTS for part in (t, x, *qs))]
    texts.append("user assistant Fill in the blank ____ Complete the statement What about Question Answer 10 slow west")
    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})
    special = ["<|end|>", "<|turn|>", "<|done|>", "<unk>"]
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*special, *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(special[:3])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = TEMPLATE
    folder = tmp_path_factory.mktemp("base")
    tiny_llama(len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def tiny_world(base_folder, cache, monkeypatch):
    """The base's folder under a cache that all compiles of the session share, and the embedder of words."""
    monkeypatch.setenv("ATOMLORA_CACHE", str(cache))
    embedder = WordEmbedder()
    monkeypatch.setattr("atomlora.compiler.plan.load_embedder", lambda *_args, **_named: embedder)
    return SimpleNamespace(base=str(base_folder), cache=cache, embedder=embedder)
