"""Asking with a reader: what it reads, when it speaks, and what the answer tells of it."""

from dataclasses import dataclass, field

import pytest

from atomlora import AtomLoRA
from atomlora.answers import UNANSWERED
from atomlora.errors import UsageError
from atomlora.full_context import Reply
from atomlora.router import RouterSettings

QUESTION = "What was the tower built of?"
FEW = {"top_k": 2, "max_new_tokens": 6}


@dataclass
class Listener:
    """A reader that says the last word of what it reads, and remembers what that was."""

    name: str = "listener@0"
    says: str | None = None
    likely: float = 0.75
    refuses: bool = False
    heard: list = field(default_factory=list)

    def read(self, questions, texts, least):
        self.heard += list(zip(questions, texts, strict=True))
        for text, limit in zip(texts, least, strict=True):
            said = UNANSWERED if self.refuses else self.says or text.split()[-1]
            reply = Reply(said, False, len(text.split()), 1.0, reader=self.name, sure=self.likely >= limit)
            yield reply._replace(unanswered=self.refuses, unanswerable=0.9 if self.refuses else 0.1)


@pytest.fixture
def reader():
    return Listener()


@pytest.fixture
def reading(opened, reader, monkeypatch):
    monkeypatch.setattr(AtomLoRA, "reader", reader)
    monkeypatch.setattr(AtomLoRA, "default_style", "auto")
    return opened


def test_what_atoms_state_is_read(reading, reader):
    stated = reading.ask(QUESTION, style="statement", **FEW)
    assert (stated.text, stated.reader) == (stated.statement, None)
    assert not reader.heard
    answer = reading.ask(QUESTION, **FEW)
    assert reader.heard == [(QUESTION, stated.text)]
    assert answer.statement == stated.text
    assert answer.text == stated.text.split()[-1]
    assert answer.reader == "listener@0"
    assert answer.prompt_tokens == stated.prompt_tokens + len(stated.text.split())
    assert answer.atoms == stated.atoms


def test_texts_are_read_where_they_are_shown(reading, reader):
    answer = reading.ask(QUESTION, mode="text", **FEW)
    texts = "\n".join(atom.text for atom in answer.atoms)
    assert reader.heard == [(QUESTION, texts)]
    assert answer.statement == ""
    assert answer.prompt_tokens == len(texts.split())  # the base was not asked
    both = reading.ask(QUESTION, mode="both", **FEW)
    stated = reading.ask(QUESTION, style="statement", **FEW).text
    assert reader.heard[1] == (QUESTION, f"{stated}\n{texts}")
    assert both.statement == stated


def test_nothing_is_read_twice(reading, reader):
    reading.steady = 0.999  # no token of a random model reaches it: every text stands for its atom
    both = reading.ask(QUESTION, mode="both", **FEW)
    texts = "\n".join(atom.text for atom in both.atoms)
    assert len(both.atoms) == 2
    assert reader.heard == [(QUESTION, texts)]
    assert both.statement == texts


def test_an_answer_that_does_not_stand_there_is_not_given(reading, reader):
    reader.says = "Atlantis"
    answer = reading.ask(QUESTION, **FEW)
    assert answer.text == answer.statement != ""
    assert answer.reader is None
    assert answer.prompt_tokens > reading.ask(QUESTION, style="statement", **FEW).prompt_tokens  # it was asked
    assert reading.ask(QUESTION, mode="text", **FEW).text == "Atlantis"  # there is nothing else to say


def test_an_unsure_reader_is_heard_where_short_answers_are_wanted(reading, reader):
    reader.likely = 0.25
    for mode in ("atoms", "both"):
        answer = reading.ask(QUESTION, mode=mode, **FEW)
        assert answer.text == answer.statement
        short = reading.ask(QUESTION, mode=mode, style="short", **FEW)
        assert short.text != short.statement == answer.statement
    assert reading.ask(QUESTION, mode="text", **FEW).text == "ferry."  # nothing else was said


def test_a_refusal_gives_way_to_the_statement_or_is_said(reading, reader):
    heard = reading.ask(QUESTION, **FEW)
    assert (heard.unanswered, heard.unanswerable) == (False, 0.1)
    reader.refuses = True
    for mode in ("atoms", "both"):
        answer = reading.ask(QUESTION, mode=mode, **FEW)
        assert (answer.text, answer.reader) == (answer.statement, None)
        short = reading.ask(QUESTION, mode=mode, style="short", **FEW)
        assert (short.text, short.reader) == (UNANSWERED, "listener@0")
        assert short.statement == answer.statement
        for one in (answer, short):
            assert (one.unanswered, one.unanswerable, one.abstained) == (True, 0.9, False)
            assert one.atoms  # where to look
    text = reading.ask(QUESTION, mode="text", **FEW)
    assert (text.text, text.unanswered) == (UNANSWERED, True)  # nothing was stated
    silent = reading.ask(QUESTION, style="statement", **FEW)
    assert (silent.unanswered, silent.unanswerable) == (False, None)


def test_the_base_speaks_for_itself(reading, reader):
    assert reading.ask(QUESTION, mode="none", **FEW).reader is None
    calibration = reading.router.calibration
    reading.router.calibration = calibration.model_copy(update={"threshold": 2.0})
    reading.router.settings = RouterSettings(abstain=True)
    for mode in ("atoms", "text", "both"):
        answer = reading.ask(QUESTION, mode=mode, **FEW)
        assert answer.abstained
        assert (answer.reader, answer.text) == (None, answer.statement)
    assert not reader.heard


def test_batches_and_streams_read_alike(reading):
    questions = [QUESTION, "Who steers the ferry?", "When does the ferry leave?"]
    together = reading.ask_batch(questions, **FEW)
    for question, answer in zip(questions, together, strict=True):
        alone = reading.ask(question, **FEW)
        stream, pieces = reading.stream(question, **FEW), []
        while True:
            try:
                pieces.append(next(stream))
            except StopIteration as end:
                streamed = end.value
                break
        assert pieces == [alone.text]
        for other in (alone, streamed):
            assert other.model_dump(exclude={"latency_ms"}) == answer.model_dump(exclude={"latency_ms"})


def test_styles_that_cannot_be(opened):
    assert opened.reader is None  # none is shipped for this base
    with pytest.raises(UsageError, match="--style short: there is no reader for base 'tiny'"):
        opened.ask(QUESTION, style="short", **FEW)
    with pytest.raises(UsageError, match="--style long"):
        opened.ask(QUESTION, style="long", **FEW)


def test_a_reader_that_is_not_there(world):
    with (
        AtomLoRA.open(world.path, **world.settings, reader=world.path) as model,
        pytest.raises(UsageError, match=r"reader\.json cannot be read there"),
    ):
        model.ask(QUESTION, **FEW)


def test_the_reader_that_the_store_records_is_the_default(world, monkeypatch):
    monkeypatch.setattr("atomlora.reader.registry.reader_for", lambda name, _base, recorded: (name, recorded))
    with AtomLoRA.open(world.path, **world.settings) as model:
        model.store.manifest.settings["reader"] = "/readers/mine"
        assert model.reader == ("auto", "/readers/mine")


def test_only_a_reader_that_was_named_speaks_unasked(world, reader, monkeypatch):
    monkeypatch.setattr(AtomLoRA, "reader", reader)
    with AtomLoRA.open(world.path, **world.settings) as model:
        assert model.ask(QUESTION, **FEW).reader is None
        assert model.ask(QUESTION, style="short", **FEW).reader == "listener@0"
    with AtomLoRA.open(world.path, **world.settings | {"reader": "a-folder"}) as model:
        assert model.ask(QUESTION, **FEW).reader == "listener@0"
