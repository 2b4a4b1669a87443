"""`compile`: options to settings, progress, summary, interruption. The compiler has tests of its own."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from atomlora.cli import main
from atomlora.cli.settings import compile_settings
from atomlora.compiler.progress import CompileProgress, CompileReport, FailedAtom
from atomlora.corpora import SkippedFile
from atomlora.errors import UsageError
from atomlora.settings import CompileSettings

OPTIONS = (
    "rank",
    "alpha",
    "layers",
    "targets",
    "slots",
    "embedder",
    "question_writer",
    "on_conflict",
    "storage",
    "reader",
)
UNSET = {**dict.fromkeys(OPTIONS), "one_adapter": False}


def report(**changes):
    facts = {
        "store": "facts.atoms",
        "version": "ab" * 32,
        "atoms_total": 5,
        "atoms_new": 3,
        "atoms_kept": 2,
        "atoms_removed": 1,
        "atoms_failed": 1,
        "seconds": 75.4,
        "atoms_per_second": 0.5,
        "failed": (FailedAtom(id="cd" * 32, text="Plums\ngrow.", source="g.md", questions=("What grows?",)),),
        "skipped": (SkippedFile(source="photo.png", reason="is of a format that is not read"),),
        "warnings": ("the pool is small",),
    }
    return CompileReport(**(facts | changes))


@pytest.fixture
def compiler(monkeypatch):
    """Stands in for `compile_corpus`: keeps what it was called with, tells some progress, reports."""
    calls = {}

    def compile_corpus(sources, store, settings, *, on_progress, **how):
        calls.update(sources=sources, store=store, settings=settings, **how)
        on_progress(CompileProgress(stage="read", done=1, total=1))
        for done in range(4):
            facts = {"recall": 0.75, "atoms_per_second": 0.5, "seconds_left": 2.0 * (3 - done)} if done else {}
            message = "the pool is small" if done == 1 else None
            on_progress(CompileProgress(stage="train", done=done, total=3, message=message, **facts))
        return calls.get("report", report())

    monkeypatch.setattr("atomlora.compiler.compile.compile_corpus", compile_corpus)
    return calls


def test_defaults_are_the_settings_own():
    assert compile_settings(**UNSET) == CompileSettings()


def test_options_reach_the_compiler(run, compiler, tmp_path):
    result = run(
        "compile", "a.md", "docs", "-o", tmp_path / "s", "--base", "b", "--embedder", "e", "--questions",
        "q.jsonl", "--question-writer", "none", "--rank", 8, "--alpha", 16, "--layers", "late:2", "--targets",
        "up_proj, down_proj", "--slots", 6, "--device", "cpu",
    )  # fmt: skip
    assert result.exit_code == 0
    settings = compiler["settings"]
    assert (settings.adapter.rank, settings.adapter.alpha, settings.adapter.layers) == (8, 16.0, "late:2")
    assert settings.adapter.targets == ("up_proj", "down_proj")
    assert (settings.slots, settings.embedder, settings.question_writer) == (6, "e", "none")
    assert compiler["sources"] == (Path("a.md"), Path("docs"))
    assert (compiler["base"], compiler["questions"], compiler["device"]) == ("b", Path("q.jsonl"), "cpu")
    assert (compiler["examples"], compiler["mount"]) == (None, "always")


def test_an_emptied_folder_is_taken_as_such_on_demand_only(run, compiler, tmp_path):
    for more in ([], ["--allow-empty"]):
        assert run("compile", "docs", "-o", tmp_path / "s", *more).exit_code == 0
        assert compiler["allow_empty"] is bool(more)
    result = run("compile", "--allow-empty", "-o", tmp_path / "s", "--examples", "a.jsonl")
    assert result.exit_code == 2
    assert "--allow-empty is about SRC" in result.stderr


def test_the_rank_can_be_left_to_the_run(run, compiler, tmp_path):
    assert run("compile", "docs", "-o", tmp_path / "s", "--rank", "auto").exit_code == 0
    assert compiler["settings"] == CompileSettings(auto_rank=True)


def test_examples_reach_the_compiler(run, compiler, tmp_path):
    assert run("compile", "-o", tmp_path / "s", "--examples", "a.jsonl", "--mount", "label:calm").exit_code == 0
    assert (compiler["sources"], compiler["examples"], compiler["mount"]) == ((), [Path("a.jsonl")], "label:calm")
    assert run("compile", "-o", tmp_path / "s", "--examples", "none").exit_code == 0
    assert compiler["examples"] == []


@pytest.mark.parametrize(
    "wrong",
    [("docs", "--mount", "always"), ("docs", "--type", "behaviour"), ("--examples", "none", "--examples", "a.jsonl")],
)
def test_options_of_behaviours_need_examples(run, compiler, tmp_path, wrong):
    result = run("compile", *wrong, "-o", tmp_path / "s")
    assert result.exit_code == 2
    assert "--examples" in result.stderr
    assert compiler == {}


def test_an_empty_tenant_is_said_to_be_empty(run, compiler, tmp_path):
    result = run("compile", "docs", "-o", tmp_path / "s", "--tenant", " ")
    assert (result.exit_code, compiler) == (2, {})
    assert "--tenant: is empty" in result.stderr


def test_summary_and_what_went_wrong(run, compiler, tmp_path):
    result = run("compile", "docs", "-o", tmp_path / "s")
    assert result.stdout == (
        "facts.atoms: 5 atoms (3 new, 2 kept, 1 removed, 1 not learnt in full) in 1:15, 0.50 atoms/s; "
        "version abababababab\n"
    )
    lines = result.stderr.splitlines()
    assert "reading documents: 1/1" in lines
    assert "training atoms: 3/3, 0.50/s, recall 0.75" in lines
    assert "the pool is small" in lines
    assert "Skipped photo.png: is of a format that is not read" in lines
    assert 'Not learnt in full: cdcdcdcdcdcd (g.md) "Plums grow.": What grows?' in lines


def test_json_is_the_report(run, compiler, tmp_path):
    told = json.loads(run("compile", "docs", "-o", tmp_path / "s", "--json").stdout)
    assert told == report().model_dump(mode="json")
    contract = "store version atoms_total atoms_new atoms_kept atoms_removed atoms_failed seconds atoms_per_second"
    assert set(contract.split()) <= set(told)


def test_long_lists_are_cut_and_counted(run, compiler, tmp_path):
    skipped = tuple(SkippedFile(source=f"{number}.png", reason="no") for number in range(30))
    compiler["report"] = report(skipped=skipped)
    error = run("compile", "docs", "-o", tmp_path / "s").stderr
    assert "19.png" in error
    assert "20.png" not in error
    assert "10 more files skipped" in error


def test_bar_on_a_terminal(run, compiler, tmp_path, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes any stream for a terminal then
    monkeypatch.setenv("COLUMNS", "120")
    error = run("compile", "docs", "-o", tmp_path / "s").stderr
    assert "training atoms" in error
    assert "recall 0.75" in error
    assert "\x1b[" in error


def test_interrupted(run, store, tmp_path, monkeypatch):
    def interrupt(*_args, **_named):
        raise KeyboardInterrupt

    monkeypatch.setattr("atomlora.compiler.compile.compile_corpus", interrupt)
    result = run("compile", "docs", "-o", store)
    assert result.exit_code == 130
    assert "4 atoms are kept; the same command resumes" in result.stderr
    early = run("compile", "docs", "-o", tmp_path / "new")
    assert (early.exit_code, "no atom was trained yet" in early.stderr) == (130, True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--rank", "0"),
        ("--rank", "x"),
        ("--alpha", "-1"),
        ("--slots", "0"),
        ("--targets", ","),
        ("--rank", "99"),
    ],
)
def test_wrong_options(run, compiler, tmp_path, option, value):
    result = run("compile", "docs", "-o", tmp_path / "s", option, value)
    assert result.exit_code == 2
    assert option in result.stderr
    assert compiler == {}


def test_an_address_is_no_folder_to_write(run, compiler, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (("compile", "docs"), ("questions", "docs"), ("adapt", "data.jsonl"), ("sample", "kestrin")):
        result = run(*command, "-o", "s3://bucket/store")
        assert result.exit_code == 2
        assert "s3://bucket/store: an address cannot be written to" in result.stderr
        assert ("atomlora push" in result.stderr) == (command[0] == "compile")
    assert compiler == {}
    assert not list(tmp_path.iterdir())


def test_rounds_of_questions(run, compiler, tmp_path):
    assert run("compile", "d", "-o", tmp_path / "s", "--question-rounds", 2).exit_code == 0
    assert compiler["settings"] == CompileSettings(question_rounds=2)
    wrong = run("compile", "d", "-o", tmp_path / "s", "--question-rounds", 9)
    assert (wrong.exit_code, "--question-rounds 9" in wrong.stderr) == (2, True)


def test_settings_name_their_option():
    with pytest.raises(UsageError, match="--alpha -1"):
        compile_settings(**(UNSET | {"alpha": -1.0}))


def test_nothing_to_compile(run, tmp_path):
    assert run("compile", "-o", tmp_path / "s").exit_code == 2
    assert run("compile", tmp_path / "nothing", "-o", tmp_path / "s").exit_code == 1
    missing = run("compile", tmp_path / "nothing", "-o", tmp_path / "s")
    assert "nothing: no such file or folder" in missing.stderr


def test_the_help_of_compile_names_the_defaults_that_it_uses():
    defaults, shape = CompileSettings(), CompileSettings().adapter
    text = " ".join(CliRunner().invoke(main, ["compile", "--help"]).output.split())
    for option, value in {
        "--rank": shape.rank,
        "--alpha": f"{shape.alpha:g}",
        "--layers": shape.layers,
        "--targets": ",".join(shape.targets),
        "--slots": defaults.slots,
        "--storage": defaults.storage,
        "--question-rounds": defaults.question_rounds,
        "--writer-concurrency": defaults.endpoint.concurrency,
        "--writer-timeout": f"{defaults.endpoint.timeout_s:g}",
    }.items():
        _, _, described = text.partition(f" {option} ")
        assert described.partition("[default: ")[2].startswith(str(value)), option
