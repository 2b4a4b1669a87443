"""What a compile leaves alone: the calibration after a small edit, the atoms of renamed files; and int8 storage."""

import pytest

import atomlora.compiler.routing as module
from atomlora.compiler.compile import compile_corpus
from atomlora.errors import StoreError
from atomlora.runtime.keys import kept_keys
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.status import status
from atomlora.store import Store

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:1"),
    train=TrainSettings(pool_atoms=1, max_steps=2, rows_per_step=1, silence_tokens=2),
    question_writer="none",
    max_questions=2,
)


@pytest.fixture
def compile_(tiny_world, documents, tmp_path):
    def run(**changes):
        settings = SETTINGS.model_copy(update=changes)
        return compile_corpus([documents], tmp_path / "store", settings, base=tiny_world.base, device="cpu")

    return run


def test_a_store_stays_on_its_base_unless_told_otherwise(compile_, tiny_world, documents, tmp_path):
    """Not on the embedded one, on which every atom would be trained anew."""
    compile_()
    report = compile_corpus([documents], tmp_path / "store", SETTINGS, device="cpu")
    assert (report.atoms_new, report.atoms_kept) == (0, 4)
    assert Store.open(tmp_path / "store").manifest.base.name == tiny_world.base


def edit(documents, before, after):
    file = documents / "ferry.md"
    assert before in file.read_text()
    file.write_text(file.read_text().replace(before, after))


def test_a_small_edit_keeps_the_calibration(compile_, documents, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "RECALIBRATE_SHARE", 0.6)  # of four atoms
    compile_()
    first = Store.open(tmp_path / "store").manifest
    edit(documents, "at 9 every", "at 10 every")
    compile_()
    second = Store.open(tmp_path / "store").manifest
    assert second.calibration == first.calibration
    assert second.stats["atoms_since_calibration"] == 2  # one came, one went
    edit(documents, "at 10 every", "at 14 every")
    calls = []
    fit = module.fit_store_calibration
    monkeypatch.setattr(module, "fit_store_calibration", lambda *a, **k: calls.append(1) or fit(*a, **k))
    compile_()
    assert Store.open(tmp_path / "store").manifest.stats["atoms_since_calibration"] == 0  # four are too many
    assert calls == [1]
    compile_(max_questions=1)  # another recipe
    assert calls == [1, 1]


def test_keys_of_other_texts_are_made_anew(compile_, tiny_world, tmp_path):
    """As the message of a store that has such keys advises."""
    compile_()
    path = tmp_path / "store"
    with Store.open(path) as store:
        head, atoms, (vectors, positions) = store.manifest, list(store.atoms()), store.keys()
    with Store.writer(path) as writer:
        writer.commit(
            atoms, (vectors[:-1], positions[:-1]), base=head.base, embedder=head.embedder, settings=head.settings,
            recipe=head.recipe, targets=head.targets, calibration=head.calibration,
        )  # fmt: skip
    with Store.open(path) as store, pytest.raises(StoreError, match="compile it again with this atomlora"):
        kept_keys(store, atoms)
    assert compile_().atoms_kept == 4
    with Store.open(path) as store:
        again, _, texts = kept_keys(store, atoms)
        assert store.manifest.stats["atoms_since_calibration"] == 0
    assert (again == tiny_world.embedder.encode(texts)).all()


def test_a_renamed_file_without_a_title_trains_nothing(compile_, documents, tmp_path):
    (documents / "plain.txt").write_text("The ferry Marla carried 14 walls of slate from Orvane in 1822.\n")
    assert compile_().atoms_new == 5
    before = {atom.id: atom.weights_digest for atom in Store.open(tmp_path / "store").atoms()}
    (documents / "plain.txt").rename(documents / "notes" / "other.txt")
    for _ in range(2):  # the second finds the new name in the store
        report = compile_()
        assert (report.atoms_new, report.atoms_kept, report.atoms_removed) == (0, 5, 0)
        assert status([documents], tmp_path / "store").up_to_date
    store = Store.open(tmp_path / "store")
    assert {atom.id: atom.weights_digest for atom in store.atoms()} == before
    assert len(store.from_source("notes/other.txt")) == 1
    assert store.tombstones() == []


def test_a_removed_file_leaves_tombstones(compile_, documents, tmp_path):
    compile_()
    (documents / "tower.md").unlink()
    compile_()
    (stone,) = Store.open(tmp_path / "store").tombstones()
    assert stone.sources == ("tower.md",)


def test_atoms_stored_as_int8(compile_, documents, tmp_path):
    compile_(storage="int8")
    store = Store.open(tmp_path / "store")
    assert {store.show(atom.id)["dtype"] for atom in store.atoms()} == {"int8"}
    assert store.verify().ok
    report = compile_()  # how atoms are stored is no reason to train them again
    assert (report.atoms_new, report.atoms_kept) == (0, 4)
    edit(documents, "at 9 every", "at 10 every")
    compile_()
    store = Store.open(tmp_path / "store")
    assert sorted(store.show(atom.id)["dtype"] for atom in store.atoms()) == ["bf16", "int8", "int8", "int8"]
