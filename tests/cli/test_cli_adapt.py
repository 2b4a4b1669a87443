"""`adapt` on the tiny base, and the reader that it makes in `ask`, `eval` and `compile`."""

import json

import pytest
from tiny_store import FACTS

from atomlora.answers import UNANSWERED
from atomlora.bases import load_base
from atomlora.errors import InputError

QUESTION = "What was the tower built of?"
FEW = ("--max-new-tokens", "4")
QUICK = ("--epochs", "30", "--learning-rate", "0.03", "--rank", "4", "--batch-tokens", "64")


@pytest.fixture(scope="module")
def examples(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "examples.jsonl"
    lines = [
        {"text": "The tower was built of slate", "question": "What was the tower built of", "answer": "slate"},
        {"statements": ["Osk steers the ferry", "Plums grow"], "question": "Who steers the ferry", "answer": "Osk"},
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture
def reader(run, examples, base_folder, tmp_path):
    out = tmp_path / "little"
    result = run("adapt", examples, "-o", out, "--base", base_folder, "--device", "cpu", *QUICK, "--json")
    report = json.loads(result.stdout)
    assert (report["reader"], report["texts"], report["left_out"]) == (str(out), 2, 0)
    assert report["examples"] - report["unanswerable"] == 2
    return out


def test_a_reader_in_use(run, store, golden, reader):
    answer = json.loads(run("ask", store, QUESTION, "--mode", "text", "--reader", reader, "--json", *FEW).stdout)
    assert answer["reader"].startswith("little@")
    assert answer["statement"] == ""
    bare = json.loads(run("ask", store, QUESTION, "--reader", reader, "--style", "statement", "--json", *FEW).stdout)
    assert bare["reader"] is None
    assert bare["text"] == json.loads(run("ask", store, QUESTION, "--json", *FEW).stdout)["text"]
    shown = run("ask", store, QUESTION, "--reader", reader, *FEW)
    stated = [line for line in shown.stdout.splitlines() if line.startswith("  stated: ")]
    assert bool(stated) == (shown.stdout.splitlines()[0] != bare["text"])
    report = json.loads(
        run("eval", store, golden, "--reader", reader, "--modes", "none,text,full", "--json", *FEW).stdout
    )
    assert report["reader"] == answer["reader"]
    assert {mode: row["read"] for mode, row in report["modes"].items()} == {"none": 0.0, "text": 1.0, "full": 1.0}
    assert report["modes"]["text"]["stated"] is None


def test_a_reader_that_refuses_says_so(run, store, golden, base_folder, tmp_path, monkeypatch):
    """Taught that nothing answers, it always refuses (with .64, which is as sure as this base can be)."""
    monkeypatch.setattr("atomlora.reader.mounted.REFUSES", 0.5)
    path = tmp_path / "none.jsonl"
    texts, questions = [fact[1] for fact in FACTS], [fact[2] for fact in FACTS]
    lines = [
        {"statements": said, "question": question, "answer": None}
        for question in questions
        for said in (*([text] for text in texts), *([text, *texts] for text in texts))
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("adapt", path, "-o", tmp_path / "none", "--base", base_folder, "--device", "cpu", *QUICK)
    how = ("--reader", tmp_path / "none", *FEW)
    shown = run("ask", store, QUESTION, "--mode", "text", *how).stdout.splitlines()
    assert shown[0] == UNANSWERED
    assert shown[1].startswith("  unanswered: the reader sees no answer in what was found (probability ")
    answer = json.loads(run("ask", store, QUESTION, "--mode", "text", "--json", *how).stdout)
    assert (answer["text"], answer["unanswered"], answer["abstained"]) == (UNANSWERED, True, False)
    assert 0.5 <= answer["unanswerable"] <= 1
    report = json.loads(run("eval", store, golden, "--modes", "none,text,full", "--json", *how).stdout)
    assert {mode: row["unanswered"] for mode, row in report["modes"].items()} == {"none": 0, "text": 1, "full": 1}


def test_galore_makes_a_base(run, store, examples, base_folder, tmp_path):
    pytest.importorskip("pytorch_optimizer")
    out = tmp_path / "grown"
    done = run("adapt", examples, "-o", out, "--base", base_folder, "--device", "cpu", "--method", "galore", *QUICK)
    grown = load_base(str(out), "cpu")
    assert f"It is a base of its own ({grown.fingerprint[:12]}…): compile and ask with --base {out}" in done.stdout
    refused = run("ask", store, QUESTION, "--base", out, *FEW)  # the store is the other base's
    assert refused.exit_code == 1
    assert str(out) in refused.stderr
    assert grown.fingerprint[:12] in refused.stderr
    mounted = run("ask", store, QUESTION, "--reader", out, *FEW)
    assert mounted.exit_code == 2
    assert f"compile and ask with --base {out}" in mounted.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--rank", "0"), "--rank 0"),
        (("--lora-plus", "0.5"), "--lora-plus 0.5"),
        (("--targets", " ,"), "--targets is empty"),
        (("--targets", "x_proj"), "--targets x_proj"),
        (("--layers", "late:7"), "--layers late:7"),
        (("--unanswerable", "0.9"), "--unanswerable 0.9"),
        (("--method", "galore", "--lora-plus", "2"), "--lora-plus is an adapter's"),
    ],
)
def test_wrong_options(run, examples, base_folder, tmp_path, options, message):
    result = run("adapt", examples, "-o", tmp_path / "r", "--base", base_folder, *options)
    assert result.exit_code == 2
    assert message in result.stderr
    assert not (tmp_path / "r").exists()


def test_bad_data_is_named_before_the_base_is_loaded(run, tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"text": "t", "question": "q", "answer": "a"}\n{"text": "t"}\n')
    result = run("adapt", path, "-o", tmp_path / "r", "--base", "no-such-base")
    assert result.exit_code == 1
    assert "bad.jsonl, line 2" in result.stderr


def test_compile_records_the_reader(run, reader, monkeypatch, tmp_path):
    monkeypatch.chdir(reader.parent)
    seen = []

    def compile_corpus(_sources, _store, settings, **_how):
        seen.append(settings.reader)
        raise InputError("enough")

    monkeypatch.setattr("atomlora.compiler.compile.compile_corpus", compile_corpus)
    for name in ("little", "none"):
        run("compile", tmp_path, "-o", tmp_path / "s", "--reader", name)
    assert seen == [str(reader.resolve()), "none"]


def test_readers_that_are_none(run, store, tmp_path):
    for command in (("ask", store, QUESTION), ("compile", tmp_path, "-o", tmp_path / "s")):
        result = run(*command, "--reader", tmp_path)
        assert result.exit_code == 2
        assert "reader.json cannot be read there" in result.stderr
