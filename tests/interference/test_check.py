"""A whole check of a small store, its command and its page; records in the store."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from click.testing import CliRunner

from atomlora.cli import main
from atomlora.conflicts.records import ConflictRecord, Side
from atomlora.errors import CorruptStoreError, InputError, StoreError, UsageError
from atomlora.golden import load_golden
from atomlora.interference.asked import golden_questions, own_questions
from atomlora.interference.check import CheckSettings, check_store
from atomlora.interference.lab import Stack
from atomlora.interference.off_topic import base_examples, changed, repeats
from atomlora.interference.policy import InterferencePolicy, store_policies
from atomlora.interference.records import AtomRecord, InterferenceRecords, PairRecord
from atomlora.interference.remeasure import remeasure
from atomlora.interference.report import projected, report_html
from atomlora.interference.stacking import Asked, stacks_of
from atomlora.interference.unseen_questions import UNSEEN_QUESTIONS
from atomlora.model import AtomLoRA
from atomlora.router import GENERAL_QUESTIONS, Route, RoutedAtom
from atomlora.runtime.loops import LOOP_TOKENS
from atomlora.store import Store

FEW = CheckSettings(questions=4, off_topic=3, wrong_atoms=2, tokens=6)


@pytest.fixture
def opened(base, embedder):
    """opened(path) -> the model on that store; closed at the end."""
    models = []

    def open_(path):
        models.append(AtomLoRA.open(path, base, "cpu", embedder=embedder))
        return models[-1]

    yield open_
    for model in models:
        model.close()


@pytest.fixture
def run(embedder, monkeypatch):
    """Runs the command line in this process; anything but a planned exit is an error of the test."""
    monkeypatch.setattr("atomlora.router.embedder.load_embedder", lambda *_args, **_named: embedder)
    monkeypatch.setattr("atomlora.interference.check.UNSEEN_QUESTIONS", UNSEEN_QUESTIONS[:3])

    def invoke(*arguments):
        result = CliRunner().invoke(main, [str(argument) for argument in arguments])
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return invoke


def some_records(atoms):
    pair = PairRecord(other=atoms[1].id, delta_nll=0.5, peak=2.0, half_peak=0.1, overlap=0.2, kl=0.4, flips=0.1)
    of = [AtomRecord(id=a.id, weights_digest=a.weights_digest, pairs=(pair,) if a is atoms[0] else ()) for a in atoms]
    return InterferenceRecords(neighbours=1, probes=1, atoms=tuple(of))


def test_unseen_questions_are_unseen():
    assert len(set(UNSEEN_QUESTIONS)) == len(UNSEEN_QUESTIONS) == 40
    assert not {q.lower() for q in UNSEEN_QUESTIONS} & {q.lower() for q in GENERAL_QUESTIONS}


def test_records_come_back_as_they_were_written_and_are_verified(make_store, items):
    records = some_records([atom for atom, _ in items])
    path = make_store(items, records)
    with Store.open(path) as store:
        assert store.interference() == records
        assert store.verify().ok
        assert store.gc().removed == ()
        digest = store.manifest.interference
        assert digest in store.manifest.objects()
        place = path / "objects" / digest[:2] / digest
        place.chmod(0o644)
        place.write_bytes(place.read_bytes().replace(b"0.5", b"0.6"))
        assert [problem.file for problem in store.verify().problems] == [f"objects/{digest[:2]}/{digest}"]
        with pytest.raises(CorruptStoreError):
            store.interference()


def test_a_store_without_records_has_none(make_store, items):
    with Store.open(make_store(items)) as store:
        assert store.interference() is None
        assert store_policies(store) == ()


def test_remeasuring_adds_a_version_with_records_and_nothing_else(make_store, opened, items):
    path = make_store(items)
    model = opened(path)
    manifest = remeasure(model)
    assert manifest.parent == model.store.version
    with Store.open(path) as store:
        assert store.version == manifest.version
        records = store.interference()
        assert [atom.id for atom in records.atoms] == [atom.id for atom, _ in items]
        assert records.neighbours == 4  # of five atoms
        assert list(store.atoms()) == list(model.store.atoms())
        for name in ("base", "embedder", "recipe", "catalogue", "keys", "segments", "settings", "calibration"):
            assert getattr(store.manifest, name) == getattr(model.store.manifest, name)
    with pytest.raises(StoreError, match="not the current"):
        remeasure(model)
    again = opened(path)
    assert remeasure(again).version == manifest.version
    assert isinstance(again.composer.policies[-1], InterferencePolicy)


def test_remeasuring_leaves_behaviours_out_and_conflicts_in(make_store, opened, items):
    *knowledge, (last, record) = items
    behaviour = last.model_copy(update={"type": "behaviour", "mount": "always"})
    sides = [Side(atom=atom.id, source=None, sentence=atom.text, value="x") for atom, _ in items[:2]]
    conflict = ConflictRecord(older=sides[0], newer=sides[1], kind="name", decided_by=None)
    path = make_store([*knowledge, (behaviour, record)], conflicts=(conflict,))
    remeasure(opened(path))
    with Store.open(path) as store:
        assert [one.id for one in store.interference().atoms] == [atom.id for atom, _ in knowledge]
        assert store.conflicts() == (conflict,)
    report = check_store(opened(path), FEW)
    assert report.atoms == len(knowledge)
    assert behaviour.id not in {atom for pair in report.pairs for atom in (pair.a, pair.b)}


def test_check_measures_what_was_not_recorded_and_finds_the_same_as_the_records(make_store, opened, items):
    path = make_store(items)
    model = opened(path)
    now = check_store(model, FEW)
    assert not now.recorded
    remeasure(model)
    kept = check_store(opened(path), FEW)
    assert kept.recorded
    assert kept.pairs == now.pairs
    assert len(kept.pairs) == 20
    assert kept.worst == kept.pairs[0]
    assert [pair.damage for pair in kept.pairs] == sorted((pair.damage for pair in kept.pairs), reverse=True)
    assert kept.stacked_recall == now.stacked_recall
    assert kept.off_topic == now.off_topic
    assert {(r.k, r.others, r.weights) for r in kept.stacked_recall} == {
        (k, others, weights) for k in (1, 2, 4) for others in ("nearest", "random") for weights in ("gates", "unit")
    }
    assert kept.off_topic.n == 6
    assert kept.off_topic_kl > 0  # random atoms are loud


def test_stacks_are_of_the_asked_atom_and_others_once_each():
    near = np.array([[1, 2, 3], [0, 2, 3], [1, 0, 3], [0, 1, 2]])
    asked = [Asked("q", 2, "s", ((3, 0.4), (0, 0.2)))]
    assert stacks_of(asked, near, 4, 1, "random", "unit") == [Stack((2,), (1.0,))]
    assert stacks_of(asked, near, 4, 3, "nearest", "unit") == [Stack((2, 1, 0), (1.0, 1.0, 1.0))]
    assert stacks_of(asked, near, 4, 3, "nearest", "gates") == [Stack((2, 3, 0), (1.0, 0.4, 0.2))]
    for seed in range(5):
        (stack,) = stacks_of(asked, near, 4, 3, "random", "gates", seed)
        assert stack.atoms[0] == 2
        assert len(set(stack.atoms)) == 3
        assert stack.weights == (1.0, 0.4, 0.2)


def test_off_topic_tells_what_decoding_would(base, lab):
    """An answer is `same` exactly where greedy decoding with the atom gives the very tokens of the base."""
    examples = base_examples(base, UNSEEN_QUESTIONS[:4], 5)
    stacks = [Stack.at_one(atom) for atom in range(4)] + [Stack((0,), (1e-4,)), Stack((), ())]
    picks = [0, 1, 2, 3, 0, 1]
    found = changed(lab, examples, picks, stacks)
    for one, pick, stack in zip(found, picks, stacks, strict=True):
        assert one.kl >= -1e-6
        outcome = lab.outcome(lab.rows(examples), [pick], [stack])
        assert one.same == bool(outcome.passed[0])
    assert found[4].kl < found[0].kl
    assert found[5] == (0.0, True, len(examples[1].answer))
    run = list(range(LOOP_TOKENS))
    assert repeats([*run, 99, *run])
    assert not repeats([*run, *run[:-1]])


def test_questions_of_people_are_those_that_one_atom_answers(items, tmp_path):
    atoms = [atom for atom, _ in items]
    lines = [
        {"question": "Who is at the wheel?", "answer": "Osk", "source": "ferry.md"},
        {"question": "Of what?", "answer": "slate", "source": "tower.md"},
        {"question": "Nobody says.", "answer": "gold", "source": "tower.md"},
        {"question": "Which?", "answer": "The ferry", "source": "ferry.md"},
    ]
    path = tmp_path / "golden.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    found = golden_questions(load_golden(path), atoms, 10)
    assert [(question, number) for question, number, _ in found] == [("Who is at the wheel?", 1), ("Of what?", 2)]
    assert [number for _, number, _ in own_questions(atoms, 2)] == [0, 2]
    assert len(own_questions(atoms, 99)) == 5


class Page(HTMLParser):
    """What a page asks for from elsewhere, and its text."""

    def __init__(self):
        super().__init__()
        self.foreign, self.text, self.tags = [], "", []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.foreign += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data")]

    def handle_data(self, data):
        self.text += data


def test_command_prints_the_contract_and_writes_a_page(run, make_store, items, tmp_path):
    path, page = make_store(items), tmp_path / "report.html"
    result = run("check", path, "--measure", "--json", "--html", page, "--questions", 3)
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert {"pairs", "worst", "stacked_recall", "off_topic_kl"} <= set(found)
    assert {"a", "b", "delta_nll", "overlap"} <= set(found["pairs"][0])
    assert found["recorded"] is True
    told = Page()
    told.feed(page.read_text())
    assert not told.foreign
    assert "script" not in told.tags
    assert told.tags.count("svg") == 3
    assert all(atom.text in told.text for atom, _ in items if atom.id in {found["worst"]["a"], found["worst"]["b"]})
    plain = run("check", path, "--questions", 3)
    assert plain.exit_code == 0
    assert "The worst" in plain.stdout
    assert "Off topic" in plain.stdout


def test_what_stands_in_a_document_is_no_markup(make_store, opened, items):
    model = opened(make_store(items))
    report = check_store(model, FEW)
    nasty = '<script>alert(1)</script> & "quotes"'
    atoms = [atom.model_copy(update={"text": nasty}) for atom in model.atoms.values()]
    page = report_html(report, atoms, model.store.keys())
    assert "<script" not in page
    told = Page()
    told.feed(page)
    assert nasty in told.text


def test_mistakes_are_found_before_anything_is_computed(run, make_store, items, tmp_path):
    path = make_store(items)
    missing = run("check", path, "--golden", tmp_path / "none.jsonl")
    assert missing.exit_code == 1
    assert "none.jsonl" in missing.stderr
    nowhere = run("check", path, "--html", tmp_path / "no" / "report.html")
    assert nowhere.exit_code == 1
    assert "--html" in nowhere.stderr
    golden = tmp_path / "golden.jsonl"
    golden.write_text(json.dumps({"question": "Who?", "answer": "nobody", "source": "ferry.md"}))
    unfit = run("check", path, "--golden", golden)
    assert unfit.exit_code == 1
    assert "--golden" in unfit.stderr


def test_an_empty_version_cannot_be_checked(make_store, opened, items):
    model = opened(make_store(items))
    model._parts["atoms"] = {}
    with pytest.raises(InputError, match="no atom"):
        check_store(model, FEW)


def test_map_keeps_what_is_near_together():
    embeddings = np.array([[1, 0, 0], [0.9, 0.1, 0], [0, 1, 0], [0, 0.9, 0.1]], np.float32)
    places = projected(embeddings, np.arange(4), 4)
    assert places.min() >= 0
    assert places.max() <= 1
    assert np.linalg.norm(places[0] - places[1]) < np.linalg.norm(places[0] - places[2])
    assert projected(embeddings[:1], np.arange(1), 1).shape == (1, 2)


def test_a_disturbed_stack_is_told_in_the_answer(make_store, base, embedder, items):
    """The policy is on where the store has records; what it does stands in the answer."""
    atoms = [atom for atom, _ in items]
    harm = {"delta_nll": 3.0, "peak": 9.0, "half_peak": 3.0, "overlap": 0.5, "kl": 3.0, "flips": 0.5}
    records = InterferenceRecords(
        neighbours=4,
        probes=1,
        atoms=tuple(
            AtomRecord(
                id=a.id,
                weights_digest=a.weights_digest,
                pairs=tuple(PairRecord(other=b.id, **harm) for b in atoms if b is not a),
            )
            for a in atoms
        ),
    )
    path = make_store(items, records)
    routed = tuple(RoutedAtom(id=atom.id, weight=0.9, score=1.0) for atom in atoms[:3])
    route = Route(question="What was the tower built of?", atoms=routed, abstained=False, confidence=1.0)
    said = {}
    for action in (None, "off", "drop", "alone"):
        with AtomLoRA.open(path, base, "cpu", embedder=embedder, interference=action) as model:
            said[action] = model.composer.select(route)
    assert not said["off"].conflicts
    assert said[None].conflicts
    assert min(atom.weight for atom in said[None].atoms) < 0.5
    assert said["drop"].dropped
    assert len(said["alone"].atoms) == 1
    with (
        AtomLoRA.open(path, base, "cpu", embedder=embedder, interference="never") as model,
        pytest.raises(UsageError, match="downweight"),
    ):
        model.composer.select(route)
