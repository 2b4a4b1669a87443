"""What of a model's reply is believed: never more than questions whose answers are words of the text."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora.questions.structured import agrees, checked, messages, parse_reply, salvage_reply, verbatim
from atomlora.questions.types import AtomText

ATOM = AtomText(title="Guild", text="Anna met Bo Lind in 1990.\nEntry costs 12 euros.")
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text("Anna é\ud83d\ude00", max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["questions", "question", "answer", "x"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@given(JSON.map(json.dumps) | st.text(alphabet='{}[]":,\\`jsonq1 \n', max_size=60))
def test_any_reply_gives_pairs_or_none(reply):
    for pairs in (parse_reply(reply) or [], salvage_reply(reply)):
        assert all(isinstance(part, str) for pair in pairs for part in pair)
        for question in checked(ATOM, pairs, 4):
            assert question.answer in ATOM.text.replace("\n", " ")
            assert question.text.encode()


@given(st.text("né \ud83d\ude00", min_size=1, max_size=12))
def test_what_utf8_cannot_hold_is_left_out(odd):
    """Halves of a character that follow each other make a whole one, as JSON has it."""
    odd_ones = [{"question": f"Who {odd} met Bo Lind?", "answer": "Anna"}, {"question": "Who is Bo?", "answer": odd}]
    reply = json.dumps([*odd_ones, {"question": "Who met Bo Lind?", "answer": "Anna"}])
    halved = any("\ud800" <= letter <= "\udfff" for letter in json.loads(reply)[0]["question"])
    assert len(parse_reply(reply)) == len(salvage_reply(reply)) == (1 if halved else 3)
    assert all(part.encode() for pair in parse_reply(reply) for part in pair)


@pytest.mark.parametrize("reply", ["", "no", "{", '{"questions": 3}', '"x"', "[[1]", "[" * 5000])
def test_what_is_not_of_the_form_is_none(reply):
    assert parse_reply(reply) is None


GOOD = '{"questions": [{"question": "Who met Bo Lind?", "answer": "Anna"}'


@pytest.mark.parametrize(
    "reply",
    [
        f"<think>I need a {{question}}.</think>\n{GOOD}]}}",
        f"so I ask who.</think>\n```json\n{GOOD}]}}\n```",
        f"Here:\n```json\n{GOOD}]}}\n```\nDo you need more?",
        f"```json{GOOD}]}}```",
        f"```JSON\n{GOOD}]}}```",
        f'{GOOD}, {{"question": "Wha',
        f'<think>{{"question": "What?", "answer": "Bo"}}?</think>{GOOD}]}}',
        f"{GOOD}]}}",
    ],
)
def test_json_that_is_wrapped_or_cut_off_is_believed(reply):
    assert parse_reply(reply) == [("Who met Bo Lind?", "Anna")]


def test_thoughts_before_no_questions_are_a_reply():
    assert parse_reply('<think>Nothing to ask.</think>{"questions": []}') == []
    assert parse_reply('{"questions": [{"question": "What ends at </think>?", "answer": "Bo"}]}') == [
        ("What ends at </think>?", "Bo")
    ]


def test_single_pairs_of_another_form_are_left_out():
    good = {"question": "Who met Bo Lind?", "answer": "Anna"}
    reply = json.dumps({"questions": [good, {"question": "Who?"}, {"question": 1, "answer": "Anna"}, "Who?", None]})
    assert parse_reply(reply) == salvage_reply(reply) == [tuple(good.values())]
    assert salvage_reply(f"Sure: {json.dumps(good)} and {json.dumps(good)[:-1]}") == [tuple(good.values())]


def test_answers_are_whole_words_as_the_text_spells_them():
    assert verbatim(ATOM.text, "bo  lind.") == "Bo Lind"
    assert verbatim(ATOM.text, "1990. entry") == "1990. Entry"
    assert [verbatim(ATOM.text, answer) for answer in ("Lin", "199", "euro", "", "  ", "Bo Anna")] == [None] * 6


def test_rounds_show_what_was_asked():
    first = messages(ATOM, 3)
    later = messages(ATOM, 3, parse_reply('[{"question": "Who met Bo?", "answer": "Anna"}]'))
    assert later[:2] == first
    assert json.loads(later[2]["content"]) == {"questions": [{"question": "Who met Bo?", "answer": "Anna"}]}
    assert later[3]["role"] == "user"


@pytest.mark.parametrize(
    ("answer", "reply", "same"),
    [("40 m", "It is 40 m.", True), ("Bo Lind", "Lind", True), ("1990", "unknown", False), ("Anna", "", False),
     ("Anna", "Anna, Bo, Carl, Dora, Emil, Fred, Gus and Hans", False), ("it", "it", True)],
)  # fmt: skip
def test_agreement(answer, reply, same):
    assert agrees(answer, reply) is same
