"""Whole compiles on the tiny base: what is trained, kept, removed, resumed and refused."""

import shutil

import pytest
import torch

import atomlora.compiler.session as session
from atomlora.compiler.compile import compile_corpus
from atomlora.corpora import read_corpus
from atomlora.errors import InputError, StoreError
from atomlora.interference.lab import Lab
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store
from atomlora.training.adapters import StackedAdapters
from atomlora.training.trainer import Trainer

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=4, layers="late:2"),
    train=TrainSettings(
        pool_atoms=1,
        max_steps=400,
        rows_per_step=8,
        silence_rows=1,
        silence_tokens=2,
        pass_probability=0.6,
    ),
    question_writer="none",
    max_questions=2,
    slots=4,
)
RUSHED = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"max_steps": 2})})


@pytest.fixture
def trained(monkeypatch):
    """The identities of all atoms that were trained so far, but for the pool's."""
    seen = []
    run = Trainer.run

    def watch(self, jobs):
        for atom in run(self, jobs):
            if self.adapters.pool is not None:
                seen.append(atom.identity)
            yield atom

    monkeypatch.setattr(Trainer, "run", watch)
    return seen


@pytest.fixture
def compile_(tiny_world, documents, tmp_path):
    """Compile the documents into the test's store."""

    def run(sources=None, settings=RUSHED, **options):
        options = {"base": tiny_world.base, "device": "cpu", **options}
        return compile_corpus(sources or [documents], tmp_path / "store", settings, **options)

    return run


def atoms(tmp_path):
    with Store.open(tmp_path / "store") as store:
        return {atom.id: atom for atom in store.atoms()}


def test_first_compile_learns_and_tells(compile_, tmp_path, documents, trained):
    told = []
    report = compile_(settings=SETTINGS, on_progress=told.append)
    found = atoms(tmp_path)
    texts = {document.source: document.text for document in read_corpus([documents])}
    assert report.atoms_total == report.atoms_new == len(found) == len(trained) == 4
    assert (report.atoms_kept, report.atoms_removed, report.atoms_failed) == (0, 0, 0)
    assert all(atom.record.recall == 1.0 and 2 <= atom.record.steps < 400 for atom in found.values())
    for atom in found.values():
        place = atom.provenances[0]
        assert texts[place.source][place.start : place.end].strip() == atom.text
    assert {place.source for a in found.values() for place in a.provenances} == {
        "ferry.md", "tower.md", "notes/garden.md",
    }  # fmt: skip
    stages = list(dict.fromkeys(event.stage for event in told))
    assert [s for s in stages if s != "pool"] == ["read", "questions", "train", "route", "interference"]
    last = [event for event in told if event.stage == "train"][-1]
    assert (last.done, last.total, last.recall) == (4, 4, 1.0)
    assert set(stages) == set(report.seconds_by_stage)
    assert report.atoms_per_second > 0
    with Store.open(tmp_path / "store") as store:
        assert store.verify().ok
        assert store.version == report.version
        assert store.manifest.settings == SETTINGS.model_dump(mode="json")
        vectors, positions = store.keys()
        assert len(vectors) == len(positions) > 4


def test_second_compile_keeps_all(compile_, tmp_path, trained):
    compile_()
    before, many = atoms(tmp_path), len(trained)
    report = compile_()
    assert len(trained) == many
    assert (report.atoms_total, report.atoms_new, report.atoms_kept, report.atoms_removed) == (4, 0, 4, 0)
    assert report.atoms_per_second == 0
    assert atoms(tmp_path) == before


def test_only_an_edited_sentence_is_trained_again(compile_, tmp_path, documents, trained):
    compile_()
    before, many = atoms(tmp_path), len(trained)
    ferry = documents / "ferry.md"
    ferry.write_text(ferry.read_text().replace("at 9 every", "at 10 every"))
    report = compile_()
    after = atoms(tmp_path)
    assert len(trained) == many + 1
    assert (report.atoms_new, report.atoms_kept, report.atoms_removed) == (1, 3, 1)
    (new,) = set(after) - set(before)
    assert "at 10 every" in after[new].text
    for same in set(after) & set(before):
        assert after[same].weights_digest == before[same].weights_digest
    # And back again: the old atom still lies in a segment.
    ferry.write_text(ferry.read_text().replace("at 10 every", "at 9 every"))
    compile_()
    assert len(trained) == many + 1
    assert {i: a.weights_digest for i, a in atoms(tmp_path).items()} == {i: a.weights_digest for i, a in before.items()}


def test_a_removed_file_takes_its_atoms_with_it(compile_, tmp_path, documents, trained):
    compile_()
    many = len(trained)
    (documents / "ferry.md").unlink()
    report = compile_()
    assert (report.atoms_total, report.atoms_kept, report.atoms_removed, len(trained)) == (2, 2, 2, many)
    assert all(a.provenances[0].source != "ferry.md" for a in atoms(tmp_path).values())


def test_a_moved_file_trains_nothing(compile_, tmp_path, documents, trained):
    compile_()
    before, many = atoms(tmp_path), len(trained)
    (documents / "deep" / "er").mkdir(parents=True)
    (documents / "tower.md").rename(documents / "deep" / "er" / "tower.md")
    shutil.copy(documents / "notes" / "garden.md", documents / "garden2.md")
    report = compile_()
    after = atoms(tmp_path)
    assert len(trained) == many
    assert (report.atoms_new, report.atoms_removed) == (0, 0)
    assert set(after) == set(before)
    sources = sorted(tuple(sorted(p.source for p in a.provenances)) for a in after.values())
    assert sources == [("deep/er/tower.md",), ("ferry.md",), ("ferry.md",), ("garden2.md", "notes/garden.md")]


def test_other_settings_train_all_again(compile_, tmp_path, trained):
    compile_()
    before, many = atoms(tmp_path), len(trained)
    report = compile_(settings=RUSHED.model_copy(update={"slots": 3}))
    assert len(trained) == many
    report = compile_(settings=RUSHED.model_copy(update={"max_questions": 1}))
    assert (report.atoms_new, report.atoms_removed, len(trained)) == (4, 4, many + 4)
    assert not set(atoms(tmp_path)) & set(before)


def test_an_interrupted_run_is_resumed(compile_, tmp_path, trained, monkeypatch):
    calm = compile_().version
    expected = {i: a.weights_digest for i, a in atoms(tmp_path).items()}
    shutil.rmtree(tmp_path / "store")
    trained.clear()
    monkeypatch.setattr(session, "SEGMENT_ATOMS", 1)

    def interrupt(event):
        if event.stage == "train" and event.done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_(on_progress=interrupt)
    with pytest.raises(StoreError, match="no version"):
        Store.open(tmp_path / "store")
    first = list(trained)
    assert len(first) == 2
    report = compile_()
    assert len(trained) == 4
    assert set(trained[2:]).isdisjoint(first)
    found = atoms(tmp_path)
    assert set(found) == set(expected)
    assert all(found[i].weights_digest == expected[i] for i in first)  # they left the very same batch
    assert report.atoms_total == 4
    assert report.version != calm


def test_an_interruption_inside_a_segment_keeps_what_is_finished(compile_, tmp_path, documents, trained):
    compile_()
    version = compile_().version
    many = len(trained)
    (documents / "ferry.md").write_text("# Ferry\n\nThe ferry Marla leaves Orvane at 10.\n\nKeldan has 14 walls.\n")

    def interrupt(event):
        if event.stage == "train" and event.done == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_(on_progress=interrupt)
    with Store.open(tmp_path / "store") as store:
        assert store.version == version
        assert len(store) == 4
        assert store.verify().ok
    assert len(trained) == many + 1
    assert compile_().atoms_new == 2
    assert len(trained) == many + 2


def test_atoms_that_do_not_learn_are_named(compile_, tmp_path):
    report = compile_()
    assert report.atoms_failed == len(report.failed) == 4
    found = atoms(tmp_path)
    for failed in report.failed:
        assert failed.questions == found[failed.id].record.failed_questions
        assert failed.questions
        assert failed.text == found[failed.id].text
        assert failed.source == found[failed.id].provenances[0].source


def test_user_questions_are_learnt_and_their_change_retrains_one_atom(compile_, tmp_path, trained):
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "Who steers the ferry?", "answer": "Osk Berrin", "source": "ferry.md"}\n')
    compile_(questions=file)
    (atom,) = [a for a in atoms(tmp_path).values() if a.questions[0].kind == "user"]
    assert "Osk Berrin" in atom.text
    many = len(trained)
    compile_(questions=file)
    assert len(trained) == many
    file.write_text(file.read_text().replace("Who steers", "Which captain steers"))
    report = compile_(questions=file)
    assert (report.atoms_new, report.atoms_kept, report.atoms_removed, len(trained)) == (1, 3, 1, many + 1)
    file.write_text(file.read_text().replace("ferry.md", "bus.md"))
    with pytest.raises(InputError, match=r"bus\.md"):
        compile_(questions=file)
    assert len(atoms(tmp_path)) == 4


def test_a_failure_before_the_commit_leaves_the_version(
    compile_, tmp_path, documents, trained, tiny_world, monkeypatch
):
    version = compile_().version
    many = len(trained)
    (documents / "tower.md").write_text("# Tower\n\nThe north tower of Orvane was built in 1987.\n")

    def fail(texts):
        raise RuntimeError("no memory")

    monkeypatch.setattr(tiny_world.embedder, "encode", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        compile_()
    monkeypatch.undo()
    with Store.open(tmp_path / "store") as store:
        assert store.version == version
        assert store.verify().ok
    assert len(trained) == many + 1


def test_neighbours_are_measured_and_only_what_changed_is_again(compile_, tmp_path, documents, monkeypatch):
    asked = []
    hidden = Lab.hidden
    monkeypatch.setattr(Lab, "hidden", lambda lab, rows, stacks: asked.append(len(stacks)) or hidden(lab, rows, stacks))
    compile_()
    with Store.open(tmp_path / "store") as store:
        first = store.interference()
        assert {atom.id for atom in first.atoms} == {atom.id for atom in store.atoms()}
        assert len(first.pairs) == 12  # four atoms beside each other
    every = sum(asked)
    asked.clear()
    compile_()
    assert not asked
    ferry = documents / "ferry.md"
    ferry.write_text(ferry.read_text().replace("at 9 every", "at 10 every"))
    compile_()
    with Store.open(tmp_path / "store") as store:
        kept = set(first.pairs) & set(store.interference().pairs)
        assert len(kept) == 6
        assert all(store.interference().pairs[pair] == first.pairs[pair] for pair in kept)
    assert 0 < sum(asked) < every


def test_an_atom_that_diverges_costs_no_other(compile_, tmp_path, monkeypatch, trained):
    """It is stored with zero weights and named; the next run does not begin anew."""
    step = StackedAdapters.step

    def diverge(self, *arguments):
        step(self, *arguments)
        if self.pool is not None:
            with torch.no_grad():
                self.a[0][0] = float("nan")

    monkeypatch.setattr(StackedAdapters, "step", diverge)
    report = compile_()
    assert report.atoms_total == 4
    with Store.open(tmp_path / "store") as store:
        (lost,) = [atom.id for atom in store.atoms() if not store.weights(atom.id).any()]
    assert lost in {one.id for one in report.failed}
    assert compile_().atoms_kept == len(trained) == 4
