"""Random bases that are made in a moment, and tokenizers of words: the bases of the tests."""

import re

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atomlora.atom import Target

WIDTH, INNER = 32, 48
SPECIAL = ("<|end|>", "<|turn|>", "<|done|>")
TEMPLATE = (
    "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|done|> {% endfor %}"
    "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
)
# What the chat template and the prompts say beside the texts of a test.
PROMPT_WORDS = "user assistant Use this text to answer Question : . ?"


def tiny_llama(vocabulary, *, layers=3, width=WIDTH, inner=INNER, heads=4, seed=0, **config):
    """A random Llama with two key heads, frozen; `config` overrides any field of its LlamaConfig."""
    values = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "initializer_range": 0.3,
        "pad_token_id": 0,
        "bos_token_id": None,
        "eos_token_id": 0,
    }
    return tiny_base("Llama", {**values, **config}, seed)


def tiny_base(architecture, config, seed=0):
    """A random base of a transformers architecture with these fields of its config, frozen. Biases, which transformers
    begin at zero, are random too."""
    torch.manual_seed(seed)
    made = getattr(transformers, f"{architecture}Config")(**config)
    model = getattr(transformers, f"{architecture}ForCausalLM")(made).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            parameter.normal_(std=config.get("initializer_range", 0.02))
    return model


def spread_llama(**shape):
    """A random Llama over bytes whose logits are spread, so that errors show; the package's default token numbers."""
    return tiny_llama(256, initializer_range=0.1, pad_token_id=None, bos_token_id=1, eos_token_id=2, **shape)


def words_in(*texts):
    """The words and signs of the texts, as `word_tokenizer` takes them apart, sorted."""
    return sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})


def word_tokenizer(words, template=TEMPLATE):
    """A tokenizer of these words in this order, behind the end, the template's marks (if there is a template) and the
    unknown word."""
    special = SPECIAL if template else SPECIAL[:1]
    numbers = {word: number for number, word in enumerate([*special, "<unk>", *words])}
    inner = Tokenizer(models.WordLevel(numbers, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(list(special))
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>", padding_side="left"
    )
    tokenizer.chat_template = template
    return tokenizer


def mlp_targets(*layers, width=WIDTH, inner=INNER, prefix=""):
    """The three linear layers of these layers' MLPs."""
    shapes = (("gate_proj", width, inner), ("up_proj", width, inner), ("down_proj", inner, width))
    return tuple(
        Target(layer=layer, module=prefix + name, d_in=d_in, d_out=d_out)
        for layer in layers
        for name, d_in, d_out in shapes
    )


def save_base(folder, model, tokenizer):
    """The base as a folder that `load_base` opens."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
