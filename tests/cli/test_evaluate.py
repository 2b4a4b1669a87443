"""`evaluate` and the `eval` command on the tiny store."""

import json

import pytest

from atomlora.answers import Answer
from atomlora.bases import load_base
from atomlora.errors import InputError
from atomlora.evaluate import evaluate, routing_scores
from atomlora.full_context import fit_prompt, rebuilt_document
from atomlora.golden import GoldenQuestion, load_golden
from atomlora.model import AtomLoRA
from atomlora.prompts import chat_prompt
from atomlora.store import Store

FEW = ("--max-new-tokens", "4")


@pytest.fixture
def model(store):
    with AtomLoRA.open(store) as opened:
        yield opened


def test_all_modes_side_by_side(run, store, golden):
    report = json.loads(run("eval", store, golden, "--json", *FEW).stdout)
    assert list(report["modes"]) == ["none", "text", "full", "atoms", "both", "extract"]
    contract = {"n", "f1", "em", "contains", "abstained", "prompt_tokens", "latency_ms"}
    assert all(contract <= set(row) and row["n"] == 4 for row in report["modes"].values())
    tokens = {mode: row["prompt_tokens"] for mode, row in report["modes"].items()}
    assert tokens["none"] == tokens["atoms"] < tokens["full"]
    assert tokens["extract"] == 0
    assert report["routing"] == {"n": 4, "recall_at_1": 1.0, "recall_at_k": 1.0, "k": 4}
    # Every atom states its answer, so printing the right one is always right, and never the answer alone.
    extract = report["modes"]["extract"]
    assert (extract["contains"], extract["em"], extract["abstained"]) == (1, 0, 0)
    assert report["documents"] == "rebuilt from the store's atoms"


def test_table(run, store, golden):
    result = run("eval", store, golden, "--modes", "extract,none", "--limit", 2, *FEW)
    lines = result.stdout.splitlines()
    assert lines[0].split()[:4] == ["mode", "n", "contains", "95"]
    assert [line.split()[:2] for line in lines[1:3]] == [["extract", "2"], ["none", "2"]]
    assert lines[3].startswith("routing: the source is first for 1.000, among the first 4 for 1.000 of 2")


def test_scores_are_means_of_what_was_answered(model, golden, monkeypatch):
    def ask_batch(self, questions, mode, top_k, max_new_tokens, style, where=None):
        facts = {"confidence": 0.5, "mode": mode, "latency_ms": 10.0, "prompt_tokens": 7}
        texts = ["at nine", "nobody", "slate", "the plums"]
        return [
            Answer(question=question, text=text, abstained=text == "nobody", **facts)
            for question, text in zip(questions, texts, strict=True)
        ]

    monkeypatch.setattr("atomlora.model.prepare", lambda *_: pytest.fail("asked for real"))
    monkeypatch.setattr(AtomLoRA, "ask", lambda *_args, **_named: None)
    monkeypatch.setattr(AtomLoRA, "ask_batch", ask_batch)
    heard = []
    row = evaluate(model, load_golden(golden), ["atoms"], on_answer=heard.append).modes["atoms"]
    assert (row.contains, row.em, row.abstained) == (0.75, 0.5, 0.25)
    assert row.f1 == round((2 / 3 + 0 + 1 + 1) / 4, 4)
    assert (row.prompt_tokens, row.latency_ms) == (7, 10)
    assert row.contains_interval[0] < 0.75 < row.contains_interval[1]
    assert [answer.text for answer in heard] == ["at nine", "nobody", "slate", "the plums"]


def test_full_puts_the_whole_source_into_the_prompt(model, monkeypatch):
    prompts = []

    def decode(_base, given, composition, _limit, least, whole=False, refusing=None):
        prompts.extend(given)
        assert composition is None
        assert not any(least)
        assert refusing is None
        return [("nine", False)] * len(given)

    one = GoldenQuestion(question="When does the ferry leave?", golden=("nine",), sources=("ferry.md",))
    monkeypatch.setattr("atomlora.runtime.decoding.decode_steady", decode)
    report = evaluate(model, [one], ["full"], documents={"ferry.md": "Osk steers the ferry"}, documents_name="here")
    wanted = chat_prompt(model.base.tokenizer, one.question, "Osk steers the ferry")
    assert prompts[-1] == wanted
    assert report.modes["full"].prompt_tokens == len(wanted)
    assert report.modes["full"].contains == 1
    assert report.documents == "here"


def test_rebuilt_document_follows_the_spans(store):
    opened = Store.open(store)
    expected = "Ferry\nThe ferry Marla leaves at nine.\nCaptain Osk steers the ferry."
    assert rebuilt_document(opened, "ferry.md") == expected
    assert rebuilt_document(opened, "absent.md") is None


def test_documents_from_a_folder(run, store, golden, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "ferry.md").write_text("The ferry leaves at nine.\n")
    result = run("eval", store, golden, "--modes", "full", "--documents", tmp_path / "docs", "--json", *FEW)
    report = json.loads(result.stdout)
    assert report["modes"]["full"]["n"] == 2
    assert report["documents"] == str(tmp_path / "docs")
    assert "2 of 4 questions have no known source document" in result.stderr


def test_documents_too_long_are_cut(base_folder):
    base = load_base(str(base_folder), "cpu")
    prompt, cut = fit_prompt(base, "Who steers the ferry?", "nine " * 500, 8)
    assert cut
    assert 64 < len(prompt) <= 120
    assert fit_prompt(base, "Who?", "nine", 8) == (chat_prompt(base.tokenizer, "Who?", "nine"), False)


def test_routing_counts_sources(model):
    ferry = GoldenQuestion(question="Who steers the ferry?", golden=("x",), sources=("garden.md",))
    assert routing_scores(model, [ferry], 1).recall_at_k == 0
    both = ferry.model_copy(update={"sources": ("ferry.md", "tower.md")})
    assert (routing_scores(model, [both], 1).recall_at_1, routing_scores(model, [both], 1).recall_at_k) == (
        1,
        0,
    )
    assert routing_scores(model, [both], 4).recall_at_k == 1
    assert routing_scores(model, [ferry.model_copy(update={"sources": ()})], 1) is None


def test_routing_ignores_silence_but_answers_do_not(model, monkeypatch):
    from atomlora.router.calibrate import Calibration

    monkeypatch.setattr(Calibration, "confidence", lambda *_: -1.0)
    one = GoldenQuestion(question="Who steers the ferry?", golden=("Osk",), sources=("ferry.md",))
    report = evaluate(model, [one], ["extract"])
    assert (report.modes["extract"].abstained, report.modes["extract"].contains) == (1, 0)
    assert report.routing.recall_at_1 == 1
    assert model.router.settings.abstain


def test_predictions_file(run, store, golden, tmp_path):
    path = tmp_path / "answers.jsonl"
    run("eval", store, golden, "--modes", "extract,none", "--predictions", path, *FEW)
    answers = [json.loads(line) for line in path.read_text().splitlines()]
    assert [answer["mode"] for answer in answers] == ["extract"] * 4 + ["none"] * 4
    assert answers[2]["text"] == "The tower was built of slate."
    assert answers[2]["golden"] == ["slate"]


def test_golden_lines(tmp_path):
    path = tmp_path / "g.jsonl"
    lines = [
        {"question": "a?", "answers": ["x", "y"], "source": "s", "hops": 2},
        {"question": "b?", "answers_all": ["x", "y"], "source": "s", "sources": ["s", "t"]},
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    first, second = load_golden(path)
    assert (first.golden, first.rule, first.sources) == (("x", "y"), "any", ("s",))
    assert (second.rule, second.sources) == ("all", ("s", "t"))
    path.write_text("\n".join(json.dumps({"question": f"{n}?", "answer": "x"}) for n in range(10)))
    assert [one.question for one in load_golden(path, 3)] == ["0?", "3?", "6?"]
    assert len(load_golden(path, 99)) == 10


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "is not JSON"),
        ("7", "is not a JSON object"),
        ('{"question": "a?"}', "no answer"),
        ('{"question": "a?", "answer": "x", "answers": ["y"]}', "answer and answers"),
        ('{"question": " ", "answer": "x"}', "'question'"),
        ('{"question": "a?", "answer": 7}', "'answer'"),
        ('{"question": "a?", "answers": []}', "'answers'"),
        ('{"question": "a?", "answers_all": "x"}', "'answers_all'"),
        ('{"question": "a?", "answer": "x", "sources": [1]}', "'sources'"),
    ],
)
def test_bad_golden_lines_name_file_and_line(run, store, tmp_path, line, message):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"question": "a?", "answer": "x"}\n\n' + line + "\n")
    with pytest.raises(InputError, match=r"bad\.jsonl, line 3"):
        load_golden(path)
    result = run("eval", store, path)
    assert result.exit_code == 1
    assert message in result.stderr


def test_mistakes(run, store, golden, tmp_path):
    cases = (
        (["eval", store, golden, "--modes", "none,big"], 2, "--modes big"),
        (["eval", store, golden, "--modes", ","], 2, "--modes"),
        (["eval", store, golden, "--limit", "0"], 2, "--limit"),
        (["eval", store, golden, "--top-k", "0"], 2, "--top-k"),
        (["eval", store, tmp_path / "absent.jsonl"], 1, "absent.jsonl: cannot be read"),
        (["eval", tmp_path / "nothing", golden], 1, "no such folder"),
        (["eval", store, golden, "--documents", tmp_path / "nothing"], 1, "no such file or folder"),
        (["eval", store, golden, "--predictions", tmp_path / "no" / "where"], 1, "where"),
    )
    for arguments, exit_code, message in cases:
        result = run(*arguments)
        assert (result.exit_code, message in result.stderr) == (exit_code, True), result.stderr
    (tmp_path / "empty.jsonl").touch()
    assert "holds no question" in run("eval", store, tmp_path / "empty.jsonl").stderr
