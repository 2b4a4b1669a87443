"""Texts that get no question from an endpoint, refused or replied to without use: the others are written still."""

import logging

import pytest
from endpoint_replies import GOOD, KILN, QUICK, about, halls, reply

from atomlora.errors import QuestionWriterError
from atomlora.questions.cache import CachedWriter, QuestionCache
from atomlora.questions.remote import EndpointWriter
from atomlora.questions.types import AtomText


def test_replies_without_json_get_blanks_and_are_asked_for_again(server, writer, tmp_path, caplog):
    server.replies = [reply(*GOOD)]
    server.always = reply(content="Sure! Here are some questions.")
    one_by_one = QUICK.model_copy(update={"concurrency": 1})
    cache = QuestionCache(tmp_path / "q.sqlite", "")
    other = AtomText(
        title="", text="The old kiln of Torrisk burned down in 1901 and was never rebuilt by anybody at all."
    )
    with caplog.at_level(logging.WARNING):
        found = CachedWriter(writer(one_by_one), cache).write([KILN, other], 2)
    assert [[q.kind for q in questions] for questions in found] == [["written"] * 2, ["cloze"] * 2]
    assert "no usable reply about 1 of 2 texts (no JSON)" in caplog.text
    assert "`atomlora questions` asks about them again" in caplog.text
    assert [body["temperature"] for _, body in server.seen] == [0.0, 0.0, 0.7]
    server.always = reply(("When did the kiln of Torrisk burn down?", "1901"))
    found = CachedWriter(writer(one_by_one), cache).write([KILN, other], 2)
    assert [questions[0].kind for questions in found] == ["written", "written"]
    assert len(server.seen) == 4


def test_a_model_that_never_replies_json_is_given_up(server, writer):
    server.always = reply(content="I cannot do that.")
    with pytest.raises(QuestionWriterError, match=r"'m/1' replied no JSON about 3 texts"):
        writer(QUICK.model_copy(update={"concurrency": 1})).write(halls(20), 2)
    assert len(server.seen) == 6


def about_even_halls(body):
    """No JSON about halls of odd numbers."""
    number = int(body["messages"][1]["content"].split("Text: Hall h")[1].split()[0])
    return about(body) if number % 2 == 0 else reply(content="I cannot do that.")


def test_a_few_texts_that_get_no_json_stop_nothing(server, writer, tmp_path, caplog):
    """Neither the first run, nor later ones, for which the good texts come from the cache."""
    server.always = about_even_halls
    cache = QuestionCache(tmp_path / "q.sqlite", "")
    one_by_one = QUICK.model_copy(update={"concurrency": 1})
    for asked in (3 + 2 * 2, 2 * 2):  # halls 1 and 3 each twice, 0, 2 and 4 once
        server.seen.clear()
        found = CachedWriter(writer(one_by_one), cache).write(halls(5), 1)
        assert [questions[0].kind for questions in found] == ["written", "cloze"] * 2 + ["written"]
        assert len(server.seen) == asked
    server.always, more = reply(content="I cannot do that."), halls(9)
    found = CachedWriter(writer(one_by_one), cache).write(more, 1)
    assert [questions[0].kind for questions in found[5:]] == ["cloze"] * 4
    assert [questions[0].kind for questions in writer().write(more[:1], 1)] == ["cloze"]
    assert "no usable reply about 1 of 1 texts" in caplog.text


@pytest.mark.parametrize("status", [400, 413, 422])
@pytest.mark.parametrize("odd", [0, 3])
def test_a_text_that_the_server_refuses_gets_blanks(server, writer, caplog, status, odd):
    def filtered(body):
        refused = f"h{odd} " in body["messages"][1]["content"]
        return (status, {"error": {"message": "content filter"}}) if refused else about(body)

    server.always = filtered
    found = writer(QUICK.model_copy(update={"concurrency": 1})).write(halls(5), 1)
    assert [questions[0].kind for questions in found] == ["cloze" if n == odd else "written" for n in range(5)]
    assert "no usable reply about 1 of 5 texts" in caplog.text
    assert f"{status} (content filter)" in caplog.text
    assert "response_format" in server.seen[-1][1]


def test_a_server_that_refuses_every_text_is_given_up(server, writer):
    server.always = (400, {"error": "no such model"})
    with pytest.raises(QuestionWriterError, match=r"400 \(no such model\); check the model"):
        writer(QUICK.model_copy(update={"concurrency": 1})).write(halls(9), 1)
    assert len(server.seen) == 6


def test_a_later_round_that_is_refused_keeps_the_first(server, writer):
    server.replies = [reply(GOOD[0]), (413, {}), (413, {})]
    (found,) = EndpointWriter(f"{server.address}#m/1", QUICK, rounds=3).write([KILN], 1)
    assert found[0].text == GOOD[0][0]


def test_texts_about_which_no_question_passes_are_counted(server, writer, caplog):
    server.always = reply(("Quand rouvre le four de Halden ?", "March 2016"))
    (found,) = writer().write([KILN], 2)
    assert {q.kind for q in found} == {"cloze"}
    assert "no question of the model passed about 1 of 1 texts" in caplog.text
    caplog.clear()
    server.always = reply(*GOOD)
    writer().write([KILN], 2)
    server.always = reply()
    writer().write([KILN], 2)
    assert not caplog.records
