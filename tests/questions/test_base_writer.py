"""The base as its own writer: asked for JSON where it follows instructions, few-shot where it does not."""

import json

import pytest
import torch
from jinja2 import TemplateError
from tiny_base import word_tokenizer

from atomlora.questions import base as base_module
from atomlora.questions.registry import writer_for
from atomlora.questions.types import AtomText

ATOMS = [
    AtomText(title="Guild", text="Anna met Bo in 1990."),
    AtomText(title="", text="The tower is 40 m tall. It was painted by Bo Lind in May 2001 and repainted later."),
    AtomText(title="Guild", headings=("Guild", "Staff"), text="Entry costs 12 euros."),
]


class Letters:
    """A tokenizer of bytes with a chat template that shows the last turn: token id = byte value, 0 ends."""

    eos_token_id = pad_token_id = 0
    chat_template = "yes"

    def apply_chat_template(self, chat, tokenize, add_generation_prompt, **settings):
        return chat[-1]["content"]

    def __call__(self, texts, return_tensors=None, padding=False, padding_side=None, add_special_tokens=False):
        rows = [list(text.encode()) for text in texts]
        width = max(map(len, rows))
        return {
            "input_ids": torch.tensor([[0] * (width - len(row)) + row for row in rows]),
            "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
        }

    def batch_decode(self, lines, skip_special_tokens=True):
        return [bytes(i for i in line if 0 < i < 128).decode("ascii") for line in lines]


@pytest.fixture
def instructed(monkeypatch):
    """Takes the tiny base for one of a billion parameters."""
    monkeypatch.setattr(base_module, "_INSTRUCTED", 1)


def test_a_small_base_is_shown_examples(tiny, monkeypatch):
    writer = writer_for("base", tiny, Letters())
    assert writer.instructed is False
    monkeypatch.setattr(writer, "_generate", lambda prompts, limit: [" Which day?\nnoise" for _ in prompts])
    found = writer.write(ATOMS, 3)
    assert {q.kind for questions in found for q in questions} == {"cloze"}  # two words are no question


def test_an_instruct_base_is_asked_for_json(tiny, instructed, caplog, monkeypatch):
    tokenizer = Letters()
    writer = writer_for("auto", tiny, tokenizer)
    assert (writer.name, writer.instructed, caplog.text) == ("base", True, "")
    plain = Letters()
    plain.chat_template = None
    assert writer.digest != writer_for("base", tiny, plain).digest
    asked = []

    def generate(prompts, limit):
        asked.extend(prompts)
        cut_off = 'Here: {"questions": [{"question": "How tall is the tower?", "answer": "40 M"}, {"question": "When'
        return [cut_off if "tower" in prompt else "no" for prompt in prompts]

    monkeypatch.setattr(writer, "_generate", generate)
    guild, tower, entry = writer.write(ATOMS, 3)
    assert [("Text: " + atom.text in prompt) for atom, prompt in zip(ATOMS, asked, strict=True)] == [True] * 3
    assert next((q.text, q.answer, q.kind) for q in tower) == ("How tall is the tower?", "40 m", "written")
    assert {q.kind for q in guild + entry} == {"cloze"}


def test_an_instruct_base_generates(tiny, instructed, monkeypatch):
    """The real generation path on random weights: whatever comes out, only what holds is kept."""
    monkeypatch.setattr(base_module, "_TOKENS_EACH", 4)
    told = []
    found = writer_for("base", tiny, Letters()).write(ATOMS, 2, lambda *now: told.append(now))
    assert [bool(questions) for questions in found] == [True] * 3
    assert told == [(3, 3)]


def test_a_base_that_writes_must_answer_its_questions(tiny, instructed, monkeypatch):
    """Two rounds and the round trip, with the base's replies put in."""
    tokenizer = Letters()
    first = {"questions": [{"question": "How tall is the tower?", "answer": "40 m"}]}
    second = {"questions": [{"question": "When was the tower built up?", "answer": "May 2001"}]}
    replies = {
        "Text:": json.dumps(first),
        "more as JSON": json.dumps(second),
        "How tall": "It is 40 m.",
        "When": "unknown",
    }

    def generate(prompts, limit):
        return [next(reply for part, reply in replies.items() if part in prompt) for prompt in prompts]

    for round_trip, kept in ((False, {"40 m", "May 2001"}), (True, {"40 m"})):
        writer = writer_for("base", tiny, tokenizer, rounds=2, round_trip=round_trip)
        monkeypatch.setattr(writer, "_generate", generate)
        (questions,) = writer.write(ATOMS[1:2], 3)
        assert {q.answer for q in questions if q.kind == "written"} == kept
    assert (
        len({writer_for("base", tiny, tokenizer, rounds=r, round_trip=t).digest for r in (1, 2) for t in (0, 1)}) == 4
    )


def asked_by(tiny, template, monkeypatch):
    """What a base with this chat template is asked, of one text in two rounds."""
    tokenizer = word_tokenizer(["x"])
    tokenizer.chat_template = template
    writer = writer_for("base", tiny, tokenizer, rounds=2)
    asked = []
    reply = '{"questions": [{"question": "How tall is the tower?", "answer": "40 m"}]}'
    monkeypatch.setattr(writer, "_generate", lambda prompts, limit: asked.extend(prompts) or [reply] * len(prompts))
    writer.write(ATOMS[1:2], 3)
    return asked


def test_a_template_without_system_turns_gets_the_instructions_in_the_first_users(tiny, instructed, monkeypatch):
    """As Gemma 2's, which also wants turns to alternate."""
    template = (
        "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
        "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
        "<{{ m.role }}>{{ m.content }}{% endfor %}"
    )
    first, second = asked_by(tiny, template, monkeypatch)
    assert first.startswith("<user>You write quiz questions")
    assert first.count("<user>") == 1
    assert "Text: The tower is 40 m tall." in first
    assert second.startswith(first)
    assert [second.count(f"<{role}>") for role in ("system", "user", "assistant")] == [0, 2, 1]
    with pytest.raises(TemplateError, match="no use"):  # of no use with any turn: nothing is hidden
        asked_by(tiny, "{{ raise_exception('no use') }}", monkeypatch)


def test_templates_are_told_not_to_think_and_what_day_it_is(tiny, instructed, monkeypatch):
    template = "{{ date_string }}{% if enable_thinking is false %}<no thought>{% endif %}"
    assert asked_by(tiny, template, monkeypatch) == ["26 Jul 2024<no thought>"] * 2
