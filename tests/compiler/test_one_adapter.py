"""The baseline of one adapter for everything: its size, its store, its answers."""

import pytest

from atomlora.compiler.compile import compile_corpus
from atomlora.errors import UsageError
from atomlora.evaluate import evaluate
from atomlora.golden import GoldenQuestion
from atomlora.model import AtomLoRA
from atomlora.one_adapter import ask_one_adapter
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.store import Store
from atomlora.training.trainer import Trainer
from atomlora.wordings import training_wordings

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:2"),
    train=TrainSettings(pool_atoms=1, max_steps=300, silence_rows=0, pass_probability=0.6),
    question_writer="none",
    max_questions=2,
    slots=4,
    one_adapter=True,
)
RUSHED = SETTINGS.model_copy(update={"train": SETTINGS.train.model_copy(update={"max_steps": 2})})


@pytest.fixture
def compile_(tiny_world, documents, tmp_path):
    """Compiles the documents into the test's store."""

    def run(settings=RUSHED):
        return compile_corpus([documents], tmp_path / "store", settings, base=tiny_world.base, device="cpu")

    return run


def test_it_has_the_atoms_ranks_together_and_says_what_they_say(compile_, tiny_world, tmp_path):
    compile_(SETTINGS)
    with Store.open(tmp_path / "store") as store:
        atoms = list(store.atoms())
        one, record = store.one_adapter()
        assert one.rank == sum(atom.rank for atom in atoms) == 8
        assert record.size == sum(one.rank * (t.d_in + t.d_out) for t in store.manifest.targets)
        assert one.record.recall == 1.0
        assert one.id not in [atom.id for atom in atoms]
        assert store.verify().ok
        assert store.gc().removed == ()
    tower = next(atom for atom in atoms if "tower" in atom.text)
    asked = next(training_wordings(tower)).question
    with AtomLoRA.open(tmp_path / "store", device="cpu", embedder=tiny_world.embedder) as model:
        (reply,) = ask_one_adapter(model, [asked], 24)
        told = model.base.tokenizer.decode(model.base.tokenizer.encode(tower.text), skip_special_tokens=True)
        assert reply.text == told
        bare = model.ask(asked, mode="none", max_new_tokens=24).text
        assert bare != reply.text  # and it is off the model again
        report = evaluate(model, [GoldenQuestion(question=asked, golden=(told,))], ["none", "big"], max_new_tokens=24)
        assert (report.modes["none"].contains, report.modes["big"].contains) == (0.0, 1.0)


def test_it_is_kept_while_the_atoms_stay_and_left_out_when_not_asked_for(compile_, tmp_path, monkeypatch):
    compile_()
    with Store.open(tmp_path / "store") as store:
        first = store.one_adapter()[0]
    monkeypatch.setattr(Trainer, "run", lambda *_: pytest.fail("trained again"))
    compile_()
    with Store.open(tmp_path / "store") as store:
        assert store.one_adapter()[0] == first
    compile_(RUSHED.model_copy(update={"one_adapter": False}))
    with AtomLoRA.open(tmp_path / "store", device="cpu") as model:
        assert model.store.one_adapter() is None
        with pytest.raises(UsageError, match=r"--modes big: .* compile it with --one-adapter"):
            evaluate(model, [GoldenQuestion(question="x", golden=("y",))], ["big"])


def test_its_rank_is_bounded_by_the_layers(compile_, documents, tmp_path):
    for number in range(20):
        (documents / f"more-{number}.md").write_text(
            f"# More\n\nThe ferry number {number} leaves Keldan at {number}.\n"
        )
    compile_()
    with Store.open(tmp_path / "store") as store:
        assert store.one_adapter()[0].rank == 32 < 2 * len(store)
