"""`ask` and `route`."""

import json

import pytest

QUESTION = "What was the tower built of?"
FEW = ("--max-new-tokens", "4")


def test_ask_prints_answer_and_sources(run, store):
    result = run("ask", store, QUESTION, *FEW)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[1].startswith("  tower.md:80-109  ")
    assert lines[1].endswith('"The tower was built of slate."')


def test_ask_json_follows_the_contract(run, store):
    result = run("ask", store, QUESTION, "--json", "--top-k", "2", *FEW)
    answer = json.loads(result.stdout)
    assert set(answer) == {
        "question", "text", "statement", "reader", "abstained", "confidence", "mode", "atoms", "behaviours", "dropped",
        "conflicts", "reworded", "latency_ms", "prompt_tokens", "unanswered", "unanswerable",
    }  # fmt: skip
    assert answer["question"] == QUESTION
    assert answer["mode"] == "atoms"
    assert 1 <= len(answer["atoms"]) <= 2
    assert set(answer["atoms"][0]) == {"id", "weight", "score", "source", "start", "end", "text"}
    assert answer["atoms"][0]["source"] == "tower.md"


def test_modes_differ_in_what_the_base_is_given(run, store):
    tokens = {
        mode: json.loads(run("ask", store, QUESTION, "--mode", mode, "--json", *FEW).stdout)["prompt_tokens"]
        for mode in ("none", "atoms", "text", "both")
    }
    assert tokens["none"] == tokens["atoms"] == tokens["both"] < tokens["text"]


def test_dash_reads_standard_input(run, store):
    asked = run("ask", store, "-", "--json", *FEW, stdin=QUESTION + "\n")
    assert json.loads(asked.stdout)["question"] == QUESTION
    routed = run("route", store, "-", "--json", stdin=QUESTION + "\n")
    assert json.loads(routed.stdout)["question"] == QUESTION


def test_stream_prints_what_ask_prints(run, store):
    whole = run("ask", store, QUESTION, *FEW).stdout
    assert run("ask", store, QUESTION, "--stream", *FEW).stdout == whole


def test_batch_answers_every_line(run, store, tmp_path):
    questions = tmp_path / "questions.jsonl"
    questions.write_text(f'{json.dumps({"question": QUESTION})}\n\n{{"question": "Who steers the ferry?", "x": 1}}\n')
    result = run("ask", store, "--batch", questions, "--json", *FEW)
    answers = [json.loads(line) for line in result.stdout.splitlines()]
    assert [answer["question"] for answer in answers] == [QUESTION, "Who steers the ferry?"]
    alone = json.loads(run("ask", store, QUESTION, "--json", *FEW).stdout)
    assert answers[0]["text"] == alone["text"]
    piped = run("ask", store, "--batch", "-", *FEW, stdin=questions.read_text())
    assert piped.stdout.count("Q: ") == 2


def test_route_lists_atoms_without_a_base(run, store, base_folder, monkeypatch):
    monkeypatch.setattr("atomlora.bases.load_base", lambda *_: pytest.fail("route loaded the base"))
    routed = json.loads(run("route", store, QUESTION, "--json").stdout)
    assert routed["abstained"] is False
    assert routed["atoms"][0]["text"] == "The tower was built of slate."
    assert run("route", store, QUESTION).stdout.splitlines()[0].startswith("  tower.md:80-109")


def test_abstaining_is_said(run, store, monkeypatch):
    from atomlora.router.calibrate import Calibration

    monkeypatch.setattr(Calibration, "confidence", lambda *_: -1.0)
    assert "abstained" in run("ask", store, QUESTION, *FEW).stdout
    assert "abstained" in run("route", store, QUESTION).stdout
    assert json.loads(run("route", store, QUESTION, "--json").stdout)["atoms"] == []


def test_what_a_terminal_would_obey_is_left_out(run, store, monkeypatch):
    monkeypatch.setattr("atomlora.runtime.decoding.decode_steady", lambda *_: [("\x1b[31mred\x07", False)])
    assert run("ask", store, QUESTION).stdout.splitlines()[0] == "[31mred"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ask", "STORE", "  "], "question is empty"),
        (["ask", "STORE", "-"], "question is empty"),
        (["route", "STORE", ""], "question is empty"),
        (["ask", "STORE", "caf\udce9?"], "not UTF-8"),
        (["route", "STORE", "caf\udce9?"], "not UTF-8"),
        (["ask", "STORE", "x", "--top-k", "0"], "--top-k"),
        (["route", "STORE", "x", "--top-k", "0"], "--top-k"),
        (["ask", "STORE", "x", "--max-new-tokens", "0"], "--max-new-tokens"),
        (["ask", "STORE", "x", "--mode", "magic"], "--mode"),
        (["ask", "STORE", "x", "--device", "abacus"], "--device"),
        (["ask", "STORE"], "QUESTION or --batch"),
        (["ask", "STORE", "x", "--batch", "y"], "QUESTION or --batch"),
        (["ask", "STORE", "--batch", "y", "--stream"], "--stream"),
        (["ask", "STORE", "x", "--stream", "--json"], "--stream"),
    ],
)
def test_wrong_usage(run, store, arguments, message):
    result = run(*(store if argument == "STORE" else argument for argument in arguments), stdin="")
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_bad_batches_name_file_and_line(run, store, tmp_path):
    path = tmp_path / "bad.jsonl"
    for content, message in (
        ('{"question": "x"}\n{"question": ""}', "bad.jsonl, line 2"),
        ('{"question": "x"}\nnot json', "bad.jsonl, line 2"),
        ('{"question": "\\ud83d"}', "surrogates not allowed"),
        ("[1]", "bad.jsonl, line 1"),
        ("\n", "holds no question"),
    ):
        path.write_text(content)
        result = run("ask", store, "--batch", path)
        assert (result.exit_code, message in result.stderr) == (1, True)
        assert "answer" not in result.stderr  # the form shown is that of a batch
    path.write_bytes(b'{"question": "\xff"}')
    assert "not UTF-8" in run("ask", store, "--batch", path).stderr
    assert "absent.jsonl" in run("ask", store, "--batch", tmp_path / "absent.jsonl").stderr


@pytest.mark.parametrize(
    ("options", "exit_code", "message"),
    [
        (("--reader", "nowhere"), 2, "--reader nowhere: reader.json cannot be read"),
        (("--reader", "none", "--style", "short"), 2, "--style short: there is no reader"),
    ],
)
def test_a_reader_that_is_not_there_is_said_of_any_question(run, store, monkeypatch, options, exit_code, message):
    from atomlora.router.calibrate import Calibration

    monkeypatch.setattr(Calibration, "confidence", lambda *_: -1.0)  # nothing of the store would be read
    result = run("ask", store, QUESTION, *options, *FEW)
    assert (result.exit_code, result.stdout) == (exit_code, "")
    assert message in result.stderr


def test_missing_store(run, tmp_path):
    for command in (["ask"], ["route"]):
        result = run(*command, tmp_path / "nothing", "x")
        assert result.exit_code == 1
        assert "nothing: no such folder" in result.stderr


def test_another_base_is_named(run, store, other_base_folder):
    result = run("ask", store, "x", "--base", other_base_folder)
    assert result.exit_code == 1
    assert str(other_base_folder) in result.stderr
    assert "was compiled for base" in result.stderr
    unknown = run("ask", store, "x", "--base", "no-such-base")
    assert unknown.exit_code == 1
    assert "no-such-base" in unknown.stderr


def test_corrupt_weights_exit_with_3(run, store):
    for path in (store / "objects").rglob("*"):
        if path.is_file():
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.chmod(0o644)
            path.write_bytes(data)
    result = run("ask", store, QUESTION)
    assert result.exit_code == 3
    assert "sha256" in result.stderr


def test_interrupted(run, store, monkeypatch):
    def interrupt(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("atomlora.model.AtomLoRA.ask", interrupt)
    result = run("ask", store, QUESTION)
    assert result.exit_code == 130
    assert "Interrupted" in result.stderr


def test_hops_reach_the_router(run, store):
    question = "Which fruit grows where Captain Osk steers?"
    for hops in ("1", "3"):
        result = run("route", store, question, "--hops", hops, "--json")
        assert result.exit_code == 0
        assert json.loads(result.stdout)["atoms"]
        assert run("ask", store, question, "--hops", hops, *FEW).exit_code == 0
    assert run("route", store, question, "--hops", "0").exit_code == 2


@pytest.mark.parametrize(
    "command",
    [
        ("eval", "STORE", "GOLDEN", "--predictions", "PLACE"),
        ("eval", "STORE", "GOLDEN", "--regression", "--predictions", "PLACE"),
        ("check", "STORE", "--html", "PLACE"),
        ("questions", "docs", "-o", "PLACE"),
    ],
)
@pytest.mark.parametrize("missing", ["no/such/file", "locked/file"])
def test_a_file_that_could_not_be_written_is_named_first(run, store, golden, tmp_path, monkeypatch, command, missing):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "locked").mkdir()
    monkeypatch.setattr("os.access", lambda path, _mode: "locked" not in str(path))  # root may write anywhere
    monkeypatch.setattr("atomlora.model.AtomLoRA.open", lambda *_a, **_k: pytest.fail("the store was opened"))
    places = {"STORE": store, "GOLDEN": golden, "PLACE": missing}
    result = run(*(places.get(argument, argument) for argument in command))
    assert result.exit_code == 1
    assert f"{command[-2]} {missing}: " in result.stderr
    assert ("its folder is not there" if missing[0] == "n" else "cannot be written") in result.stderr
