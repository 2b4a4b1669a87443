"""Prompts: one rendering for training and inference, whatever the tokenizer does at the seams."""

from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from atomlora.errors import BaseModelError
from atomlora.prompts import answer_ids, chat_prompt, common_prefix, end_ids, end_of_turn

TEMPLATE = (
    "{% for m in messages %}{{ '<|turn|>' + m['role'] + '\n' + m['content'] + '<|done|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|turn|>assistant\n' }}{% endif %}"
)
SPECIAL = ["<|end|>", "<|turn|>", "<|done|>"]


def make_tokenizer(template: str | None = TEMPLATE, merges: tuple[tuple[str, str], ...] = ()):
    """A byte-level BPE tokenizer of 256 bytes, a few merges and three special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*alphabet, *(a + b for a, b in merges)])}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=list(merges)))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(SPECIAL)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = template
    return tokenizer


def make_metaspace_tokenizer():
    """SentencePiece manners: a text of its own gets a space before it."""
    vocabulary = {
        "<unk>": 0,
        "▁": 1,
        **{character: 2 + i for i, character in enumerate(map(chr, range(33, 127)))},
    }
    vocabulary |= {"\n": 200, "</s>": 201}
    inner = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    tokenizer.chat_template = None
    return tokenizer


def test_prompt_is_the_rendered_template():
    tokenizer = make_tokenizer()
    text = tokenizer.decode(chat_prompt(tokenizer, "  Who sails?\n"))
    assert text == "<|turn|>user\nWho sails?<|done|>\n<|turn|>assistant\n"


def test_context_stands_before_the_question():
    tokenizer = make_tokenizer()
    text = tokenizer.decode(chat_prompt(tokenizer, "Who sails?", context="Ada sails."))
    assert "Use this text to answer.\nAda sails.\n\nQuestion: Who sails?<|done|>" in text


def test_prompt_without_template():
    tokenizer = make_tokenizer(template=None)
    assert tokenizer.decode(chat_prompt(tokenizer, "Who?")) == "Question: Who?\nAnswer:"
    with_text = tokenizer.decode(chat_prompt(tokenizer, "Who?", context="Ada."))
    assert with_text == "Use this text to answer.\nAda.\n\nQuestion: Who?\nAnswer:"


@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_common_prefix_begins_every_prompt_and_is_not_trivial(template):
    tokenizer = make_tokenizer(template, merges=(("W", "h"), ("Ċ", "W")))
    prefix = common_prefix(tokenizer)
    for question in ("Who?", "what", "7 days", "…", "Ça va?", "Why not", "(x)", "Ω"):
        assert chat_prompt(tokenizer, question)[: len(prefix)] == prefix
    opening = "<|turn|>user" if template else "Question:"
    assert tokenizer.decode(prefix).startswith(opening)


def test_common_prefix_stops_before_a_token_that_may_merge_with_the_question():
    plain, merging = make_tokenizer(), make_tokenizer(merges=(("Ċ", "W"),))
    assert plain.decode(common_prefix(plain)) == "<|turn|>user\n"
    assert merging.decode(common_prefix(merging)) == "<|turn|>user"


@pytest.mark.parametrize("answer", ["Ada", " Ada ", "7 May", '"Yes"', "Übermut"])
@pytest.mark.parametrize("template", [TEMPLATE, None])
def test_answer_continues_the_prompt(template, answer):
    tokenizer = make_tokenizer(template)
    prompt, ids = chat_prompt(tokenizer, "Who?"), answer_ids(tokenizer, answer)
    assert ids[-1] == end_of_turn(tokenizer)
    gap = "" if template else " "
    text = tokenizer.decode(prompt) + gap + answer.strip()
    assert tokenizer.encode(text, add_special_tokens=False) == prompt + ids[:-1]


def test_answer_of_a_tokenizer_that_puts_spaces_first():
    tokenizer = make_metaspace_tokenizer()
    prompt, ids = chat_prompt(tokenizer, "Who?"), answer_ids(tokenizer, "Ada")
    joined = tokenizer.encode("Question: Who?\nAnswer: Ada", add_special_tokens=False)
    assert prompt + ids[:-1] == joined
    assert tokenizer.convert_ids_to_tokens(ids) == ["▁", "A", "d", "a", "</s>"]


def test_answer_that_merges_with_the_prompt_keeps_its_own_ids():
    tokenizer = make_tokenizer(merges=(("Ċ", "A"),))
    ids = answer_ids(tokenizer, "Ada")
    assert tokenizer.decode(ids[:-1]) == "Ada"


def test_end_of_turn_comes_from_the_template():
    tokenizer = make_tokenizer()
    done, end = tokenizer.convert_tokens_to_ids(["<|done|>", "<|end|>"])
    assert end_of_turn(tokenizer) == done
    assert end_of_turn(make_tokenizer(template=None)) == end
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=[7, end]))
    assert end_ids(tokenizer, model) == (done, 7, end)
    assert end_ids(tokenizer, SimpleNamespace()) == (done, end)


def test_no_end_at_all_is_an_error():
    tokenizer = make_tokenizer(template=None)
    tokenizer.eos_token = None
    with pytest.raises(BaseModelError, match="end-of-text"):
        end_of_turn(tokenizer)
