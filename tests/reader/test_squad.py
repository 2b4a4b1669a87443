"""Examples made of SQuAD passages: answers stand in what is read, and held-out titles do not occur."""

import json

import pytest

from atomlora.metrics import contains
from atomlora.reader.examples import load_examples
from atomlora.reader.squad import main

PASSAGES = [
    ("A", "Marla leaves at nine o'clock on every Monday of the year. Osk steers her. Nobody knows the cook.", [
        ("when does Marla leave", "nine o'clock"), ("Who steers Marla ?", "Osk"), ("Who cooks?", "nobody at all"),
    ]),
    ("A", "The tower was built of slate in 1822. It is 31 m high.", [("What is it built of?", "slate.")]),
    ("B", "Plums grow in the garden of Zed.", [("Whose garden is it?", "Zed")]),
]  # fmt: skip


@pytest.fixture
def squad(tmp_path):
    path = tmp_path / "squad.jsonl"
    lines = [
        {"title": title, "text": text, "questions": [{"question": q, "answer": a} for q, a in asked]}
        for title, text, asked in PASSAGES
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def written(squad, out, *more):
    main(["--data", str(squad), "-o", str(out), "--train-titles", "1", *more])
    return load_examples(out)


def test_examples_hold_their_answers(squad, tmp_path):
    examples = written(squad, tmp_path / "e.jsonl", "--draws", "40")
    said = [one for one in examples if one.answer != "nobody at all"]
    assert len(said) == 3 + 3 * 40
    assert all(contains(one.text, [one.answer]) for one in said)
    assert {one.answer for one in said} == {"nine o'clock", "Osk", "slate"}
    assert {one.question for one in said} == {"When does Marla leave?", "Who steers Marla?", "What is it built of?"}
    assert not any("Zed" in one.text for one in examples)


def test_statements_are_met_in_several_ways(squad, tmp_path):
    examples = written(squad, tmp_path / "e.jsonl", "--draws", "40")
    texts = {one.text for one in examples if one.answer == "nine o'clock"}
    sentence = "Marla leaves at nine o'clock on every Monday of the year."
    assert sentence in texts  # alone
    assert any(text.startswith(sentence + "\n") for text in texts)  # first among others
    assert any(text.endswith("\n" + sentence) for text in texts)  # behind others
    assert any("\n" not in text and sentence in text and text != sentence for text in texts)  # garbled, or the passage


def test_the_same_seed_writes_the_same_file(squad, tmp_path):
    written(squad, tmp_path / "a.jsonl")
    written(squad, tmp_path / "b.jsonl")
    written(squad, tmp_path / "c.jsonl", "--seed", "1")
    a, b, c = ((tmp_path / f"{name}.jsonl").read_bytes() for name in "abc")
    assert a == b != c
