"""Training data and the tree packing of the question writer."""

import json
import random

import pytest
import torch
from tiny_base import spread_llama

from atomlora.errors import InputError
from atomlora.packing import collate, target_nll
from atomlora.questions.squad import Group, make_groups, read_passages, sentence_spans, split_titles
from atomlora.questions.train_writer import pack


class Letters:
    def __call__(self, text, add_special_tokens=False):
        return {"input_ids": list(text.encode())}


TEXT = "Dr. Vale came in 1990. He met J. Ode. They left in May!"


@pytest.fixture
def passages(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [
        {
            "id": "1",
            "title": "B",
            "text": TEXT,
            "questions": [{"question": "when did he come", "answer": "1990"}],
        },
        {"id": "2", "title": "A", "text": "It was red.", "questions": []},
        {
            "id": "3",
            "title": "B",
            "text": "No answer.",
            "questions": [{"question": "What is it?", "answer": "x"}],
        },
    ]
    path.write_text("\n".join(json.dumps(line) for line in lines), encoding="utf-8")
    return read_passages(path)


def test_sentences_survive_abbreviations_and_initials():
    assert [TEXT[a:b] for a, b in sentence_spans(TEXT)] == [
        "Dr. Vale came in 1990.",
        "He met J. Ode.",
        "They left in May!",
    ]


def test_titles_are_split_in_file_order(passages):
    training, held_out = split_titles(passages, 1)
    assert [p.title for p in training] == ["B", "B"]
    assert [p.title for p in held_out] == ["A"]


def test_groups_hold_the_answer(passages):
    (group,) = make_groups(passages, None)
    assert group == Group(path="B", text="Dr. Vale came in 1990.", pairs=(("When did he come?", "1990"),))
    for seed in range(20):
        (group,) = make_groups(passages, random.Random(seed))
        assert "1990" in group.text
        assert group.text in TEXT


def test_bad_line_is_named(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"title": "A"}\n')
    with pytest.raises(InputError, match=r"p\.jsonl, line 1"):
        read_passages(path)


def test_packed_branches_cost_what_they_cost_alone():
    """The loss over a packed tree equals the losses of its branches as sequences of their own."""
    model = spread_llama(layers=2, heads=2)
    group = Group(path="T", text="a b c", pairs=(("What is it?", "a"), ("Who was that man?", "b")))
    other = Group(path="", text="x", pairs=(("Why so?", "x"),))
    trees = [pack(Letters(), group, True, None), pack(Letters(), other, False, None)]
    with torch.no_grad():
        packed = target_nll(model, trees)
        alone = []
        for tree in trees:
            for branch in sorted(set(tree.branch) - {0}):
                keep = [i for i, b in enumerate(tree.branch) if b in (0, branch)]
                ids = torch.tensor([[tree.ids[i] for i in keep]])
                logs = model(ids).logits[0].log_softmax(-1)
                alone += [-logs[at - 1, ids[0, at]] for at in range(len(keep)) if tree.target[keep[at]]]
    torch.testing.assert_close(packed, torch.stack(alone), atol=1e-4, rtol=1e-4)


def test_collate_marks_targets_only():
    tree = pack(Letters(), Group(path="", text="x", pairs=(("Why so?", "x"),)), False, None)
    ids, _, mask, places, wanted = collate([tree])
    assert bytes(wanted.tolist()) == b" Why so?\n"
    assert torch.equal(ids.flatten()[places + 1], wanted)
    assert mask.shape == (1, 1, ids.shape[1], ids.shape[1])
