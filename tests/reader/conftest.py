"""A tiny base in a folder, and examples that it can learn by heart in a second."""

import json

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from atomlora.bases import load_base
from atomlora.reader.settings import AdaptSettings

EXAMPLES = (
    {"text": "The ferry leaves at nine .", "question": "When does the ferry leave ?", "answer": "nine"},
    {"text": "The ferry leaves at nine .", "question": "What leaves at nine ?", "answer": "The ferry"},
    {"statements": ["Osk steers .", "Plums grow ."], "question": "Who steers ?", "answer": "Osk"},
)
FAST = AdaptSettings(learning_rate=3e-2, epochs=40, batch_tokens=64, rank=4, warmup=2)


def save_base(folder, layers=2):
    """A random Llama over the words of the examples."""
    words = {
        word
        for one in EXAMPLES
        for value in one.values()
        for word in " ".join([*value] if isinstance(value, list) else [value]).split()
    }
    tokens = ["<|end|>", "<unk>", "Text", "Question", "Answer", ":", *sorted(words)]
    inner = Tokenizer(models.WordLevel({token: at for at, token in enumerate(tokens)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(["<|end|>"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        initializer_range=0.3,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory):
    return save_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def other_base(tmp_path_factory):
    return load_base(save_base(tmp_path_factory.mktemp("other"), layers=3), "cpu")


@pytest.fixture
def base(base_folder):
    return load_base(base_folder, "cpu")


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in EXAMPLES))
    return path


@pytest.fixture
def fast():
    return FAST


@pytest.fixture(scope="session")
def folder(tmp_path_factory, base_folder, data):
    """A reader that learnt its examples."""
    from atomlora.reader.training import adapt

    out = tmp_path_factory.mktemp("reader") / "little"
    adapt(data, out, base_folder, FAST, "cpu")
    return out
