"""The writer behind an address, against a real server: what is asked and believed, faults, retries, pace, cache."""

import json
import socket

import pytest
from endpoint_replies import GOOD, KEY, KILN, QUICK, about, halls, reply

from atomlora.errors import QuestionWriterError, UsageError
from atomlora.questions.cache import CachedWriter, QuestionCache
from atomlora.questions.endpoint import KEY_VARIABLE
from atomlora.questions.registry import writer_for
from atomlora.questions.remote import EndpointWriter
from atomlora.settings import EndpointSettings


def test_questions_are_asked_for_and_checked(server, writer):
    junk = [
        ("When did the hall of Halden close?", "April 2017"),  # no words of the text
        ("What reopened in March 2016?", "March 2016"),  # gives itself away
        ("Tell me", "kiln hall"),  # no question
        ("Who was Zanzibar's queen there?", "Tomas Ferreira"),  # invents a name
    ]
    server.always = reply(*junk, *GOOD)
    (found,) = writer().write([KILN], 4)
    assert [(q.text, q.answer, q.kind, q.score) for q in found] == [
        (GOOD[0][0], "March 2016", "written", None),
        (GOOD[1][0], "Tomas Ferreira", "written", None),
    ]
    ((path, body),) = server.seen
    assert path == "/v1/chat/completions"
    assert body["model"] == "m/1"
    asked = body["messages"][1]["content"]
    assert "Title: Halden / History" in asked
    assert KILN.text in asked
    assert "4 questions" in asked
    assert server.auth == [None]


def test_names_and_numbers_that_nobody_asks_for_get_a_blank(server, writer):
    server.always = reply(GOOD[0])
    (found,) = writer().write([KILN], 4)
    assert [(q.kind, q.answer) for q in found] == [("written", "March 2016"), ("cloze", "Tomas Ferreira")]


def test_a_code_fence_is_json_too(server, writer):
    fenced = "```json\n" + json.dumps([{"question": GOOD[0][0], "answer": "March 2016"}]) + "\n```"
    server.always = reply(content=fenced)
    assert writer().write([KILN], 1)[0][0].text == GOOD[0][0]


BROKEN = (200, b'{"choices": [', {"Content-Length": "5000"})


@pytest.mark.parametrize(
    "fault",
    [(500, {}), (503, b"busy"), (429, {}, {"Retry-After": "0"}), (None, None), BROKEN, (200, b"<html>"), (200, [])],
)
def test_passing_faults_are_tried_again(server, writer, fault):
    server.replies = [fault, fault]
    server.always = reply(*GOOD)
    assert len(writer().write([KILN], 2)[0]) == 2
    assert len(server.seen) == 3


def test_a_timeout_is_tried_again_and_then_told(server, writer):
    server.delay = 0.5
    with pytest.raises(QuestionWriterError, match=r"no answer within 0.05 s after 3 attempts; .*--writer-timeout"):
        writer(EndpointSettings(attempts=3, backoff_s=0.01, timeout_s=0.05)).write([KILN], 2)


@pytest.mark.parametrize(
    ("reply_", "tries", "message"),
    [
        ((401, {"error": {"message": "no key"}}), 1, rf"401 \(no key\); set \${KEY_VARIABLE}"),
        ((404, {"detail": "no model m/1"}), 1, r"404 \(no model m/1\); check the address"),
        ((500, b"<html>oops</html>"), 3, r"500 \(<html>oops</html>\); the server failed 3 times"),
        ((429, {"error": "slow down"}, {"Retry-After": "0"}), 3, r"429 \(slow down\); .*--writer-requests-per-minute"),
        ((302, {}, {"Location": "http://127.0.0.1:1/"}), 1, r"302"),
        ((200, b"<html>"), 3, r"something else than JSON; check the address"),
        ((200, b"[" * 100_000), 3, r"something else than JSON; check the address"),
        (BROKEN, 3, r"its reply broke off after 3 attempts; what was written is kept"),
        ((200, {"hello": 1}), 1, r"no chat completion; check the address"),
        ((None, None), 3, r"cannot be reached after 3 attempts \(.*\); is the server running there\?"),
    ],
)
def test_lasting_faults_are_told_with_their_remedy(server, writer, reply_, tries, message):
    server.always = reply_
    with pytest.raises(QuestionWriterError, match=message):
        writer(QUICK.model_copy(update={"concurrency": 1})).write([KILN, *halls(2)], 2)
    assert len(server.seen) == tries


def test_an_address_where_nobody_listens(writer, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(QuestionWriterError, match=r"cannot be reached after 3 attempts \(.*[Rr]efused.*\)"):
        EndpointWriter(f"http://127.0.0.1:{port}/v1#m", QUICK).write([KILN], 2)


def test_content_in_parts_is_one_text(server, writer):
    (content,) = [one["message"]["content"] for one in reply(*GOOD)[1]["choices"]]
    parts = [{"type": "text", "text": content[:9]}, {"type": "image"}, "x", {"type": "text", "text": content[9:]}]
    server.always = reply(content=parts)
    assert [q.kind for q in writer().write([KILN], 2)[0]] == ["written", "written"]


def test_a_server_that_refuses_optional_fields(server, writer):
    server.always = lambda body: (400, {"error": "response_format?"}) if "response_format" in body else reply(*GOOD)
    assert len(writer(QUICK.model_copy(update={"concurrency": 1})).write([KILN, KILN], 2)[1]) == 2
    assert ["response_format" in body for _, body in server.seen] == [True, False, False]
    assert set(server.seen[1][1]) == {"model", "messages"}


def test_many_texts_side_by_side_in_their_order(server, writer):
    server.always, server.delay = about, 0.03
    told = []
    atoms = halls(24)
    found = writer(QUICK.model_copy(update={"concurrency": 6})).write(atoms, 1, lambda *now: told.append(now))
    assert [questions[0].answer for questions in found] == [str(n + 10) for n in range(24)]
    assert told == [(n, 24) for n in range(1, 25)]
    assert 1 < server.most <= 6


def test_further_rounds_ask_about_what_is_left(server, writer):
    server.replies = [reply(GOOD[0]), reply(GOOD[1], GOOD[0])]
    twice = EndpointWriter(f"{server.address}#m/1", QUICK, rounds=2)
    (found,) = twice.write([KILN], 1)
    assert [q.answer for q in found] == ["March 2016", "Tomas Ferreira"]
    roles = [message["role"] for message in server.seen[1][1]["messages"]]
    assert roles == ["system", "user", "assistant", "user"]
    assert GOOD[0][0] in server.seen[1][1]["messages"][2]["content"]
    assert twice.digest != writer().digest


def test_the_pace_is_kept_by_retries_too(server, writer):
    server.replies = [(503, {})]
    server.always = about
    writer(QUICK.model_copy(update={"requests_per_minute": 1200.0})).write(halls(5), 1)
    gaps = [later - before for before, later in zip(server.times, server.times[1:], strict=False)]
    assert len(gaps) == 5
    assert server.times[-1] - server.times[0] >= 5 * 0.05 - 0.02


def test_what_was_written_is_not_asked_for_again(server, writer, tmp_path):
    """The server fails for good after eight texts; the next run goes on from there."""
    left = [8]

    def for_a_while(body):
        left[0] -= 1
        return about(body) if left[0] >= 0 else (401, {})

    server.always = for_a_while
    cache = QuestionCache(tmp_path / "q.sqlite", "")
    one_by_one = QUICK.model_copy(update={"concurrency": 1})
    with pytest.raises(QuestionWriterError, match="401"):
        CachedWriter(writer(one_by_one), cache).write(halls(20), 1)
    server.seen.clear()
    server.always, told = about, []
    found = CachedWriter(writer(one_by_one), cache).write(halls(20), 1, lambda *now: told.append(now))
    assert len(server.seen) == 12
    assert (told[0], told[-1], len(told)) == ((8, 20), (20, 20), 13)
    assert [questions[0].answer for questions in found] == [str(n + 10) for n in range(20)]


def test_the_key_is_sent_and_never_shown(server, writer, monkeypatch, caplog):
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    server.always = (401, {"error": {"message": f"Incorrect API key provided: {KEY}."}})
    keyed = EndpointWriter(f"{server.address}#m", QUICK)
    with pytest.raises(QuestionWriterError, match=rf"key provided: ….*\${KEY_VARIABLE} is not accepted") as caught:
        keyed.write([KILN], 2)
    assert server.auth == [f"Bearer {KEY}"]
    shown = [str(caught.value), repr(caught.value.__cause__), caplog.text, keyed.digest, repr(vars(keyed))]
    assert not any(KEY in one for one in shown)
    monkeypatch.delenv(KEY_VARIABLE)
    assert keyed.digest == EndpointWriter(f"{server.address}#m", QUICK).digest


@pytest.mark.parametrize("key", ["sk-prüfung", "sk-a\nHost: b"])
def test_a_key_that_cannot_be_is_not_shown_either(monkeypatch, key):
    monkeypatch.setenv(KEY_VARIABLE, key)
    with pytest.raises(UsageError, match=KEY_VARIABLE) as caught:
        EndpointWriter("http://127.0.0.1:1/v1#m", QUICK)
    assert "sk-" not in str(caught.value)


def test_identity_is_address_and_model(server, writer):
    own = writer().digest
    assert EndpointWriter(f"{server.address}/#m/1", QUICK).digest == own
    assert writer(EndpointSettings(concurrency=9)).digest == own
    assert writer(model="m/2").digest != own
    assert EndpointWriter("http://127.0.0.1:1/v1#m/1", QUICK).digest != own


def test_the_only_model_of_a_server_needs_no_name(server):
    server.always = (200, {"data": [{"id": "only"}]})
    assert EndpointWriter(server.address, QUICK).model == "only"
    server.always = (200, {"data": [{"id": "a"}, {"id": "b"}]})
    with pytest.raises(UsageError, match=r"#MODEL; it lists a, b"):
        EndpointWriter(server.address, QUICK)


@pytest.mark.parametrize("address", ["ftp://h/v1#m", "http://#m", "http://user:pw@h/v1#m", "https://h/v1?api-key=12#m"])
def test_addresses_that_cannot_be(address):
    with pytest.raises(UsageError, match="--question-writer") as caught:
        writer_for(address)
    assert "pw" not in str(caught.value)
    assert "12" not in str(caught.value)
