"""`questions` with a writer behind an address: no base is loaded, a broken run resumes, the key stays out of it."""

import json

import pytest
from click.testing import CliRunner

from atomlora.cli import main
from atomlora.questions.endpoint import KEY_VARIABLE

TEXT = "# Ferry\n\nThe ferry Marla leaves at nine. Captain Osk steers the ferry. Plums grow on the quay.\n"
KEY = "sk-very-secret"


@pytest.fixture
def questions(server, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    (tmp_path / "ferry.md").write_text(TEXT)

    def run(*more):
        arguments = ["questions", tmp_path / "ferry.md", "-o", tmp_path / "q.jsonl", *more]
        return CliRunner().invoke(main, [str(one) for one in arguments])

    return run


def answers(body):
    word = "nine" if "nine" in body["messages"][1]["content"] else "Captain Osk"
    pairs = {"questions": [{"question": "What is there to know about Ferry?", "answer": word}]}
    return 200, {"choices": [{"message": {"content": json.dumps(pairs)}}]}


def test_a_run_that_fails_half_way_is_taken_up_again(server, questions, tmp_path):
    writer = ("--question-writer", f"{server.address}#m", "--writer-concurrency", 1)
    server.replies, server.always = [answers], (401, {"error": f"not {KEY}"})
    failed = questions(*writer)
    assert failed.exit_code == 1
    assert "is not accepted" in failed.stderr
    assert not (tmp_path / "q.jsonl").exists()
    server.always = answers
    server.seen.clear()
    done = questions(*writer, "--json")
    assert done.exit_code == 0
    assert len(server.seen) == 2
    lines = [json.loads(line) for line in (tmp_path / "q.jsonl").read_text().splitlines()]
    assert [line["answer"] for line in lines if line["kind"] == "written"] == ["nine", "Captain Osk"]
    assert json.loads(done.stdout)["by_kind"]["written"] == 2
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert KEY not in failed.output + done.output + written.decode(errors="replace")


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (("--writer-concurrency", 2), "--question-writer URL"),
        (("--question-writer", "none", "--writer-timeout", 2), "--question-writer URL"),
        (("--question-writer", "http://h#m", "--writer-concurrency", 0), "--writer-concurrency 0"),
        (("--question-writer", "http://h#m", "--writer-requests-per-minute", 0), "--writer-requests-per-minute 0"),
    ],
)
def test_options_that_cannot_be(questions, more, named):
    result = questions(*more)
    assert result.exit_code == 2
    assert named in result.stderr
