"""Questions that a text does not answer: how they are drawn, what is learnt from them, and what a reader says then."""

import json

import pytest
import torch
from tiny_base import tiny_llama, word_tokenizer

from atomlora.answers import UNANSWERED
from atomlora.bases import Base
from atomlora.full_context import ask_documents
from atomlora.reader.examples import ReaderExample, load_examples
from atomlora.reader.folder import read_folder
from atomlora.reader.mounted import REFUSES, Reader
from atomlora.reader.refusals import refusal_step, with_refusals
from atomlora.reader.training import adapt, pack_examples
from atomlora.runtime.refusing import Refusing

TOPICS = ("ferry", "tower", "garden", "harbour")
FACTS = [
    ReaderExample(
        text=f"The {topic} of {place} opens at {hour} .",
        question=f"When does the {topic} of {place} open ?",
        answer=hour,
    )
    for topic in TOPICS
    for place, hour in (("Torrisk", "nine"), ("Kestrin", "ten"), ("Marla", "noon"), ("Osk", "one"))
]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_they_make_up_the_share(share):
    found = with_refusals(FACTS, share, 0)
    assert found[: len(FACTS)] == FACTS
    refused = found[len(FACTS) :]
    assert len(refused) == pytest.approx(share * len(found), abs=0.5)
    assert all(one.answer is None for one in refused)
    assert len(set(found)) == len(found)


def test_no_text_is_taken_that_holds_the_answer():
    answer = {one.question: one.answer for one in FACTS}
    refused = with_refusals(FACTS, 0.5, 0)[len(FACTS) :]
    assert refused
    assert not any(answer[one.question] in one.text.split() for one in refused)
    # and where every text holds it, none is drawn
    same = [FACTS[0], FACTS[0].model_copy(update={"text": "It opens at nine , they say ."})]
    assert with_refusals(same, 0.5, 0) == same


def test_most_are_asked_of_a_text_that_is_near():
    refused = with_refusals(FACTS, 0.6, 0)[len(FACTS) :]
    topics = [next(topic for topic in TOPICS if topic in one.question) for one in refused]
    near = [topic in one.text for topic, one in zip(topics, refused, strict=True)]
    assert sum(near) / len(near) > 1 / len(TOPICS)


def test_those_of_the_data_count_and_the_draw_is_the_same_for_a_seed():
    own = [FACTS[0].model_copy(update={"text": one.text, "answer": None}) for one in FACTS[1:4]]
    assert sum(one.answer is None for one in with_refusals([*FACTS, *own], 0.25, 0)) == 5
    assert with_refusals([*FACTS, *own], 0.0, 0) == [*FACTS, *own]
    assert with_refusals(FACTS, 0.25, 0) == with_refusals(FACTS, 0.25, 0) != with_refusals(FACTS, 0.25, 1)


def test_null_is_no_answer(tmp_path, base):
    path = tmp_path / "e.jsonl"
    path.write_text('{"text": "Plums grow .", "question": "Who steers ?", "answer": null}\n')
    (one,) = load_examples(path)
    assert one.answer is None
    (tree,), _ = pack_examples(base.tokenizer, [one], 512, "?")
    wanted = [tree.ids[at] for at in range(len(tree.ids)) if tree.target[at]]
    assert base.tokenizer.decode(wanted) == "? <|end|>"


def test_the_step_at_which_a_refusal_parts_from_answers():
    tokenizer = word_tokenizer(["?", "a", "no", "answer"], template=None)
    assert refusal_step(tokenizer, "?") == (0, tokenizer.convert_tokens_to_ids("?"))

    class Marked:  # as SentencePiece tokenizers do, it puts a mark before every text
        eos_token_id = 0
        chat_template = None

        def encode(self, text, add_special_tokens):
            return [7, *tokenizer.encode(text, add_special_tokens=False)]

    assert refusal_step(Marked(), "?") == (1, tokenizer.convert_tokens_to_ids("?"))


def test_refusing_bars_its_token_and_tells_its_probability():
    refusing = Refusing(1, 2, 0.5)
    first = torch.tensor([[0.0, 0.0, 9.0], [0.0, 0.0, 9.0]])
    assert refusing(torch.zeros(2, 4), first) is first  # its step comes later
    assert refusing.heard() == [(0.0, False)] * 2
    scores = torch.tensor([[0.0, 0.0, 9.0], [9.0, 0.0, 0.0]])
    barred = refusing(torch.zeros(2, 5), scores)
    assert barred[:, 2].isinf().all()
    assert torch.equal(barred[:, :2], scores[:, :2])
    chances, refused = zip(*refusing.heard(), strict=True)
    assert torch.allclose(torch.tensor(chances), scores.softmax(-1)[:, 2])
    assert refused == (True, False)
    assert refusing(torch.zeros(2, 6), scores) is scores


def test_rows_refuse_each_for_themselves():
    """One that refuses ends; the others say what they would have said without."""
    tokenizer = word_tokenizer([f"w{number}" for number in range(40)], template=None)
    base = Base("tiny", "0", tiny_llama(len(tokenizer)), tokenizer)
    asked = ["w1 w2", "w3", "w4 w5"], ["w6", "w7 w8", "w9"]
    free = list(ask_documents(base, *asked, 5))
    token = tokenizer.convert_tokens_to_ids(free[0].text.split()[0])
    with torch.no_grad():
        said = list(ask_documents(base, *asked, 5, refusal=lambda: Refusing(0, token, 0.5)))
    least = min(reply.unanswerable for reply in said)
    most = max(reply.unanswerable for reply in said)
    assert 0 < least < most < 1
    limit = (least + most) / 2
    mixed = list(ask_documents(base, *asked, 5, refusal=lambda: Refusing(0, token, limit)))
    assert [reply.unanswered for reply in mixed] == [reply.unanswerable >= limit for reply in said]
    assert {reply.text == "" for reply in mixed if reply.unanswered} == {True}
    assert [reply.text for reply in mixed if not reply.unanswered] == [
        other.text for reply, other in zip(mixed, said, strict=True) if not reply.unanswered
    ]
    assert all(not reply.sure for reply in mixed if reply.unanswered)


def test_a_reader_says_that_a_text_does_not_answer(base, base_folder, tmp_path, fast):
    examples = [
        {"text": "Osk steers .", "question": "Who steers ?", "answer": "Osk"},
        {"text": "The ferry leaves at nine .", "question": "When does the ferry leave ?", "answer": "nine"},
        {"text": "Osk steers .", "question": "When does the ferry leave ?", "answer": None},
        {"text": "The ferry leaves at nine .", "question": "Who steers ?", "answer": None},
    ]
    data = tmp_path / "e.jsonl"
    data.write_text("".join(json.dumps(one) + "\n" for one in examples))
    adapt(data, tmp_path / "r", base_folder, fast.model_copy(update={"unanswerable": 0.0}), "cpu")
    folder = read_folder(tmp_path / "r")
    assert (folder.refusal, folder.recipe.trained["unanswerable"]) == ("?", 2)
    replies = list(Reader(base, folder).read([e["question"] for e in examples], [e["text"] for e in examples]))
    assert [reply.text for reply in replies] == ["Osk", "nine", UNANSWERED, UNANSWERED]
    assert [reply.unanswered for reply in replies] == [False, False, True, True]
    assert all((reply.unanswerable >= REFUSES) is reply.unanswered for reply in replies)


def test_a_reader_without_them_cannot_tell(base, base_folder, data, tmp_path, fast):
    adapt(data, tmp_path / "r", base_folder, fast.model_copy(update={"unanswerable": 0.0}), "cpu")
    folder = read_folder(tmp_path / "r")
    assert folder.refusal is None
    (reply,) = Reader(base, folder).read(["When does the ferry leave ?"], ["Plums grow ."])
    assert (reply.unanswerable, reply.unanswered) == (None, False)
