"""`questions`, and its file on the way back into `compile` and `status`: the whole round trip on a tiny base."""

import json

import numpy as np
import pytest

from atomlora.compiler.compile import compile_corpus
from atomlora.corpora import read_corpus
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store

TEXTS = {
    "ferry.md": "# Ferry\n\nThe ferry Marla leaves at nine. Captain Osk steers the ferry.\n\n"
    "Plums grow in the garden.\n",
    "tower.md": "# Tower\n\nThe tower was built of slate.\n",
}
KINDS = {"cloze": 3, "open": 8, "statement": 2}
SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:1"),
    train=TrainSettings(pool_atoms=1, max_steps=2, rows_per_step=1, silence_tokens=2),
    question_writer="none",
)


@pytest.fixture
def documents(tmp_path):
    root = tmp_path / "documents"
    root.mkdir()
    for name, text in TEXTS.items():
        (root / name).write_text(text)
    return root


@pytest.fixture
def questions(run, documents, tmp_path):
    """`atomlora questions` over the documents into a file of that name."""

    def write(name="q.jsonl", *more):
        return run("questions", documents, "-o", tmp_path / name, "--question-writer", "none", *more)

    return write


@pytest.fixture
def compile_(documents, tmp_path, base_folder, monkeypatch, words):
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("atomlora.compiler.plan.load_embedder", lambda *_args, **_named: words)

    def run_(questions=None):
        report = compile_corpus(
            [documents], tmp_path / "s", SETTINGS, base=str(base_folder), questions=questions, device="cpu"
        )
        with Store.open(tmp_path / "s") as store:
            return report, {atom.text: atom for atom in store.atoms()}

    return run_


def read(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def save(path, lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


def test_file_stdout_and_summary(run, questions, documents, tmp_path):
    told = json.loads(questions("q.jsonl", "--json").stdout)
    lines = read(tmp_path / "q.jsonl")
    assert told["file"] == str(tmp_path / "q.jsonl")
    assert (told["sentences"], told["questions"], told["by_kind"]) == (4, len(lines), KINDS)
    assert told["trained"] == sum(line["trained"] for line in lines) == 8
    texts = {document.source: document.text for document in read_corpus([documents])}
    for line in lines:
        assert line["text"].endswith(texts[line["source"]][line["start"] : line["end"]])
        assert line["answer"] in line["text"]
    plain = run("questions", documents, "--question-writer", "none")
    assert [json.loads(line) for line in plain.stdout.splitlines()] == lines
    assert "13 questions (3 cloze, 8 open, 2 statement) about 4 sentences, 8 of them trained" in plain.stderr


def test_a_file_that_may_have_been_edited_is_not_overwritten(questions, run, documents, tmp_path):
    assert questions().exit_code == 0
    lines = read(tmp_path / "q.jsonl")
    save(tmp_path / "q.jsonl", [line for line in lines if "Osk" not in line["text"]])
    refused = questions()
    assert refused.exit_code == 2
    assert "may have been edited" in refused.stderr
    assert questions("new.jsonl", "--questions", tmp_path / "q.jsonl").exit_code == 0
    assert read(tmp_path / "new.jsonl") == read(tmp_path / "q.jsonl")
    assert questions("q.jsonl", "--force").exit_code == 0
    assert read(tmp_path / "q.jsonl") == lines


@pytest.mark.parametrize("wrong", [["--json"], ["--force"], ["-o", "no/folder/q.jsonl"]])
def test_refused_before_anything_is_read(run, documents, wrong):
    result = run("questions", documents / "nothing", "--question-writer", "none", *wrong)
    assert result.exit_code == (1 if wrong[0] == "-o" else 2)  # as files that are not there are, anywhere
    assert "-o" in result.stderr


def test_an_unedited_file_trains_nothing_anew(questions, compile_, tmp_path):
    _, before = compile_()
    questions()
    report, after = compile_(tmp_path / "q.jsonl")
    assert (report.atoms_new, report.atoms_kept, report.warnings) == (0, 4, ())
    assert after == before


def test_what_is_edited_is_trained_and_what_is_deleted_stays_away(questions, compile_, run, documents, tmp_path):
    file = tmp_path / "q.jsonl"
    _, before = compile_()
    questions()
    lines = [line for line in read(file) if "Plums" not in line["text"]]
    for line in lines:
        if line["kind"] == "cloze" and "Osk" in line["text"]:
            line.update(question="Who steers the ferry?", trained=True)
    save(file, [line for line in lines if not ("Osk" in line["text"] and line["kind"] == "open")])
    report, after = compile_(file)
    assert (report.atoms_new, report.atoms_kept, report.atoms_removed) == (1, 2, 2)
    assert "1 sentences have no question left" in report.warnings[0]
    edited = after["Captain Osk steers the ferry."]
    assert [(q.text, q.trained) for q in edited.questions] == [("Who steers the ferry?", True)]
    assert after["The ferry Marla leaves at nine."] == before["The ferry Marla leaves at nine."]
    assert compile_(file)[0].atoms_kept == 3
    status = json.loads(run("status", documents, tmp_path / "s", "--questions", file, "--json").stdout)
    assert (status["up_to_date"], status["atoms"]["kept"]) == (True, 3)
    # The store tells what its atoms were given, but not which sentences were left out.
    told = json.loads(run("status", documents, tmp_path / "s", "--json").stdout)["atoms"]
    assert (told["kept"], told["new"], told["stale"]) == (3, 1, 0)
    report, again = compile_()
    assert again == before


def test_a_document_of_which_no_line_is_left_counts_as_unknown(questions, compile_, tmp_path):
    _, before = compile_()
    questions()
    save(tmp_path / "q.jsonl", [line for line in read(tmp_path / "q.jsonl") if line["source"] != "tower.md"])
    report, after = compile_(tmp_path / "q.jsonl")
    assert after == before
    assert "1 sentences are not in" in report.warnings[0]


def test_the_routers_keys_are_those_of_a_compile_without_a_file(questions, compile_, tmp_path):
    compile_()
    with Store.open(tmp_path / "s") as store:
        keys = store.keys()
    questions()
    lines = read(tmp_path / "q.jsonl")
    lines.append({**lines[-1], "question": "Tell me about the old tower.", "kind": "open"})
    save(tmp_path / "q.jsonl", lines)
    assert compile_(tmp_path / "q.jsonl")[0].atoms_new == 1
    with Store.open(tmp_path / "s") as store:
        assert np.array_equal(store.keys()[0], keys[0])


def test_errors_name_the_line(questions, run, documents, tmp_path):
    file = tmp_path / "q.jsonl"
    questions()
    lines = read(file)
    lines[0]["answer"] = "at midnight"
    save(file, lines)
    result = run("compile", documents, "-o", tmp_path / "s", "--question-writer", "none", "--questions", file)
    assert result.exit_code == 1
    assert "q.jsonl, line 1: the answer 'at midnight' does not stand in its sentence" in result.stderr
    assert not (tmp_path / "s" / "HEAD").exists()


def test_an_interruption_says_that_the_same_command_resumes(questions, monkeypatch):
    def interrupt(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("atomlora.compiler.questionnaire.ask", interrupt)
    result = questions()
    assert result.exit_code == 130
    assert "the same command resumes" in result.stderr
