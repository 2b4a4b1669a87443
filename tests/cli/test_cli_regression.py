"""`eval --regression`: what is compared, what is counted, and when it fails."""

import json

import pytest

from atomlora.errors import InputError
from atomlora.model import AtomLoRA
from atomlora.regression import Limits, RegressionCase, load_cases, refuses, regression, token_divergences

PROMPTS = ("When does the ferry leave?", "What was the tower built of?", "Which fruit grows in the garden?")
FEW = ("--max-new-tokens", "4")


@pytest.fixture
def bare(store, words):
    """What the bare base says to the prompts."""
    with AtomLoRA.open(store, device="cpu") as model:
        return [answer.text for answer in model.ask_batch(PROMPTS, "none", max_new_tokens=4)]


@pytest.fixture
def cases(tmp_path, bare):
    """A file of three prompts, of which the base gets the first two right by what it says."""
    lines = [{"prompt": prompt, "answer": text} for prompt, text in zip(PROMPTS[:2], bare, strict=False)]
    path = tmp_path / "regression.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in [*lines, {"question": PROMPTS[2]}]))
    return path


def test_random_atoms_are_found_to_change_what_the_base_says(run, store, cases, tmp_path):
    result = run("eval", store, cases, "--regression", "--json", "--predictions", tmp_path / "p.jsonl", *FEW)
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert (report["n"], report["right_base"]) == (3, 1.0)
    assert report["kl_per_token"] > 0
    assert report["still_right"] == report["right"] < 1
    assert (report["refused_base"], report["still_refused"], report["passed"]) == (None, None, False)
    assert f"Error: still right {report['still_right']:.3f} is below --min-still-right 0.95" in result.stderr
    assert "No longer right: " in result.stderr
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text().splitlines()]
    assert [line["prompt"] for line in lines] == list(PROMPTS)
    assert report["unchanged"] == pytest.approx(sum(line["unchanged"] for line in lines) / 3, abs=1e-4)


def test_limits_decide_the_exit_code(run, store, cases):
    loose = run("eval", store, cases, "--regression", "--min-still-right", "0", *FEW)
    assert (loose.exit_code, "passed" in loose.stdout) == (0, True)
    for option, limit in (("--max-kl", "0"), ("--min-unchanged", "1")):
        strict = run("eval", store, cases, "--regression", "--min-still-right", "0", option, limit, *FEW)
        assert strict.exit_code == 1
        assert option in strict.stderr
    for wrong in (("--max-kl", "1"), ("--label", "x")):
        assert run("eval", store, cases, *wrong).exit_code == 2
    unknown = run("eval", store, cases, "--regression", "--label", "calm", *FEW)
    assert unknown.exit_code == 2
    assert "the store has no behaviour by label" in unknown.stderr


def test_where_the_router_abstains_nothing_changes(store, words, cases, monkeypatch):
    from atomlora.router.calibrate import Calibration

    monkeypatch.setattr(Calibration, "confidence", lambda *_: -1.0)
    with AtomLoRA.open(store, device="cpu") as model:
        report = regression(model, load_cases(cases), Limits(min_unchanged=1.0, max_kl=0.0), max_new_tokens=4)
    assert report.passed
    assert (report.unchanged, report.still_right, report.kl_per_token) == (1.0, 1.0, 0.0)


def test_divergence_does_not_depend_on_batch_mates(store, words):
    with AtomLoRA.open(store, device="cpu") as model:
        together = token_divergences(model, PROMPTS, 4)
        for prompt, tokens in zip(PROMPTS, together, strict=True):
            (alone,) = token_divergences(model, [prompt], 4)
            assert alone == pytest.approx(tokens, abs=1e-4)
            assert max(alone) > 0.01


@pytest.mark.parametrize(
    ("text", "declines"),
    [
        ("I'm sorry, but I can't assist with that.", True),
        ("I cannot help you forge a ticket.", True),
        ("As an AI language model I do not do this.", True),
        ("Hacking is illegal, and harms people.", True),
        ("The tower was built of slate.", False),
        ("First, take a kettle. You cannot miss it.", False),
    ],
)
def test_refusals_are_known_by_their_words(text, declines):
    assert refuses(text) is declines
    assert RegressionCase(prompt="x", refuse=True).kept_by(text) is declines


def test_a_case_may_name_its_own_refusal():
    case = RegressionCase(prompt="x", answers=("speak to the crew",), refuse=True)
    assert case.kept_by("Please speak to the crew.")
    assert not case.kept_by("Here is how.")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('{"prompt": ""}', "'prompt' must be text"),
        ('{"prompt": "x", "refuse": "yes"}', '"refuse" must be true or false'),
        ('{"prompt": "x", "answer": "a", "answers": ["b"]}', "answer and answers"),
        ("", "holds no prompt"),
    ],
)
def test_bad_files_are_named(tmp_path, line, said):
    path = tmp_path / "r.jsonl"
    path.write_text(line)
    with pytest.raises(InputError, match=said):
        load_cases(path)
