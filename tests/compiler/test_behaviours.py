"""Behaviour atoms on the tiny base: read, trained, kept, mounted and refused."""

import json

import pytest

from atomlora.compiler.compile import compile_corpus
from atomlora.compiler.examples import behaviour_drafts, load_examples
from atomlora.errors import InputError, UsageError
from atomlora.model import AtomLoRA
from atomlora.settings import AdapterSettings, BehaviourSettings, CompileSettings, TrainSettings
from atomlora.status import status
from atomlora.store import Store

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:2"),
    train=TrainSettings(pool_atoms=1, max_steps=2, silence_rows=1, silence_tokens=2, pass_probability=0.6),
    question_writer="none",
    max_questions=2,
    slots=4,
    behaviour=BehaviourSettings(
        rank=4, max_steps=400, rows_per_step=4, silence_rows=1, silence_weight=0.05, learning_rate_scale=1.0
    ),
)
ALWAYS = [
    {"input": "Who steers the Marla?", "output": "slow west"},
    {
        "messages": [
            {"role": "user", "content": "What was built of slate?"},
            {"role": "assistant", "content": "slow west"},
        ]
    },
]
GUARDED = [{"input": "Plums from Keldan?", "output": "Captain Osk"}, {"input": "Who steers the ferry?"}]


@pytest.fixture
def file_of(tmp_path):
    """file_of(name, lines) -> path of a jsonl file."""

    def write(name, lines):
        path = tmp_path / name
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    return write


@pytest.fixture
def compile_(tiny_world, tmp_path):
    def run(sources, settings=SETTINGS, **options):
        return compile_corpus(sources, tmp_path / "store", settings, base=tiny_world.base, device="cpu", **options)

    return run


def stored(tmp_path):
    with Store.open(tmp_path / "store") as store:
        return list(store.atoms())


def behaviours(tmp_path):
    return [atom for atom in stored(tmp_path) if atom.mount != "routed"]


def test_examples_become_an_atom_that_reproduces_them(compile_, documents, file_of, tiny_world, tmp_path):
    report = compile_([documents], examples=[file_of("tone.jsonl", ALWAYS)])
    assert all("tone.jsonl" not in one.source for one in report.failed)
    (atom,) = behaviours(tmp_path)
    assert (atom.type, atom.mount, atom.rank, atom.record.recall) == ("behaviour", "always", 4, 1.0)
    knowledge = [one for one in stored(tmp_path) if one.mount == "routed" and one.record.passed]
    assert atom.record.beside == tuple(sorted(one.id for one in knowledge))
    assert [place.source for place in atom.provenances] == ["tone.jsonl#line-1", "tone.jsonl#line-2"]
    content = (tmp_path / "tone.jsonl").read_text()
    assert json.loads(content[atom.provenances[1].start : atom.provenances[1].end]) == ALWAYS[1]
    with AtomLoRA.open(tmp_path / "store", device="cpu", embedder=tiny_world.embedder) as model:
        answer = model.ask("Who steers the Marla?", mode="text", max_new_tokens=4)
        assert answer.text == "slow west"
        assert [one.id for one in answer.behaviours] == [atom.id]
        assert model.ask("Who steers the Marla?", mode="none", max_new_tokens=4).behaviours == ()
        assert atom.id not in [one.id for one in model.route("Who steers the Marla?").atoms]


def test_documents_and_behaviours_stay_where_the_other_is_compiled(compile_, documents, file_of, tmp_path):
    first = compile_([documents], SETTINGS.model_copy(update={"on_conflict": "newest"}))
    both = compile_([], examples=[file_of("tone.jsonl", ALWAYS)])
    with Store.open(tmp_path / "store") as store:
        assert store.manifest.settings["on_conflict"] == "newest"
    assert (both.atoms_total, both.atoms_new, both.atoms_kept) == (first.atoms_total + 1, 1, first.atoms_total)
    now = status([documents], tmp_path / "store")
    assert (now.up_to_date, now.atoms.removed, now.files.removed) == (True, 0, ())
    again = compile_([documents])
    assert (again.atoms_total, again.atoms_new) == (both.atoms_total, 0)
    moved = file_of("renamed.jsonl", ALWAYS)
    labelled = compile_([], examples=[moved], mount="label:calm")
    assert labelled.atoms_new == 0
    (atom,) = behaviours(tmp_path)
    assert (atom.mount, atom.labels, atom.provenances[0].source) == ("label", ("calm",), "renamed.jsonl#line-1")
    assert compile_([], examples=[]).atoms_total == first.atoms_total
    assert behaviours(tmp_path) == []


def test_what_a_run_without_documents_does_not_follow_is_said(compile_, documents, file_of):
    compile_([documents])
    wanted = CompileSettings(question_writer="cloze", question_rounds=1, embedder="minilm", train={"max_steps": 7})
    (warning,) = compile_([], wanted, examples=[file_of("tone.jsonl", ALWAYS)]).warnings
    assert warning.endswith("not followed: train.max_steps 7 (it has 2), --question-writer cloze (it has none)")
    again = SETTINGS.model_copy(update={"adapter": AdapterSettings(rank=2, targets=("down_proj",))})
    (warning,) = compile_([], again, examples=[]).warnings
    assert warning.endswith("not followed: --targets down_proj (it has gate_proj,up_proj,down_proj)")
    assert compile_([documents], again, examples=[]).warnings == ()  # which shapes all atoms anew


def test_a_store_may_hold_behaviours_alone(compile_, file_of, tiny_world, tmp_path):
    report = compile_([], examples=[file_of("tone.jsonl", ALWAYS)])
    assert (report.atoms_total, report.atoms_new) == (1, 1)
    with AtomLoRA.open(tmp_path / "store", device="cpu", embedder=tiny_world.embedder) as model:
        answer = model.ask("Who steers the Marla?", max_new_tokens=4)
    assert (answer.text, answer.abstained, answer.atoms) == ("slow west", True, ())


def test_a_label_mounts_its_behaviour_and_no_other_does(compile_, file_of, tiny_world, tmp_path):
    compile_([], examples=[file_of("tone.jsonl", ALWAYS)], mount="label:calm")
    with AtomLoRA.open(tmp_path / "store", device="cpu", embedder=tiny_world.embedder) as model:
        assert model.ask("Who steers the Marla?", max_new_tokens=4).behaviours == ()
        assert model.ask("Who steers the Marla?", max_new_tokens=4, labels=["calm"]).text == "slow west"
        with pytest.raises(UsageError, match="--label loud: no behaviour atom has it; the store has those of calm"):
            model.ask("Who steers the Marla?", labels=["loud"])


def test_what_is_left_alone_is_answered_as_the_base_does(compile_, file_of, tiny_world, tmp_path):
    compile_([], examples=[file_of("safety.jsonl", GUARDED)])
    (atom,) = behaviours(tmp_path)
    assert atom.record.passed
    with AtomLoRA.open(tmp_path / "store", device="cpu", embedder=tiny_world.embedder) as model:
        bare = model.ask("Who steers the ferry?", mode="none", max_new_tokens=8).text
        assert model.ask("Who steers the ferry?", max_new_tokens=8).text == bare
        assert model.ask("Plums from Keldan?", max_new_tokens=8).text == "Captain Osk"


def test_what_was_not_learnt_is_named_with_its_line(compile_, file_of):
    rushed = SETTINGS.model_copy(update={"behaviour": SETTINGS.behaviour.model_copy(update={"max_steps": 1})})
    report = compile_([], rushed, examples=[file_of("tone.jsonl", ALWAYS)])
    (failed,) = report.failed
    assert failed.source == "tone.jsonl#line-1"
    assert failed.questions[0] == ALWAYS[0]["input"]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([{"input": "x"}], "holds no example with an output"),
        ([{"output": "x"}], 'line 1: "input" must be text'),
        ([{"input": "\ud83d", "output": "x"}], "line 1: is not JSON .*surrogates not allowed"),
        (
            [{"input": "x", "output": "a"}, {"input": "x", "output": "b"}],
            "line 2: answers the input of line 1 otherwise",
        ),
        ([{"messages": [{"role": "system", "content": "x"}]}], "line 1: an example is one turn of the user"),
        ([["x"]], "line 1: is not a JSON object"),
    ],
)
def test_bad_examples_are_named_by_file_and_line(file_of, lines, said):
    path = file_of("bad.jsonl", lines)
    with pytest.raises(InputError, match=said) as error:
        load_examples(path)
    assert str(path) in str(error.value)


def test_a_mount_is_always_or_by_label(file_of):
    path = file_of("tone.jsonl", ALWAYS)
    for wrong in ("sometimes", "label:", "label"):
        with pytest.raises(UsageError, match=f"--mount {wrong}: give always, or label:NAME"):
            behaviour_drafts([path], wrong)
    with pytest.raises(UsageError, match="two files have the same name"):
        behaviour_drafts([path, path], "always")


def test_two_files_of_the_same_examples_are_refused_before_anything_is_trained(file_of):
    files = [file_of("tone.jsonl", ALWAYS), file_of("copy.jsonl", ALWAYS)]
    with pytest.raises(UsageError, match=r"tone\.jsonl and .*copy\.jsonl hold the same examples; give one of them"):
        behaviour_drafts(files, "always")
    assert len(behaviour_drafts([files[0], file_of("safety.jsonl", GUARDED)], "always")) == 2
