"""Documents of several tenants in one store: each run replaces its own tenant's, and no other's."""

import pytest

from atomlora.cli.settings import behaviour_files
from atomlora.compiler.compile import compile_corpus
from atomlora.errors import InputError, UsageError
from atomlora.model import AtomLoRA
from atomlora.runtime.keys import store_keys
from atomlora.settings import AdapterSettings, CompileSettings, TrainSettings
from atomlora.status import status
from atomlora.store import Store

SETTINGS = CompileSettings(
    adapter=AdapterSettings(rank=2, layers="late:1"),
    train=TrainSettings(pool_atoms=1, max_steps=2, rows_per_step=1, silence_tokens=2),
    question_writer="none",
    max_questions=2,
)
SHARED = "# Garden\n\nPlums from Orvane grow behind the 14 walls.\n"


@pytest.fixture
def compile_(tiny_world, tmp_path):
    """Compile {name: text} as a tenant's documents."""

    def run(texts, tenant=None, settings=SETTINGS, **options):
        folder = tmp_path / f"documents-{tenant}"
        folder.mkdir(exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for name, text in texts.items():
            (folder / name).write_text(text)
        how = {"base": tiny_world.base, "device": "cpu", "tenant": tenant, **options}
        return compile_corpus([folder], tmp_path / "store", settings, **how)

    return run


@pytest.fixture
def held(tmp_path):
    """{text: {(tenant, source)}} of the store's version."""

    def read():
        with Store.open(tmp_path / "store") as store:
            return {atom.text: {(p.tenant, p.source) for p in atom.provenances} for atom in store.atoms()}

    return read


def test_each_tenant_replaces_its_own(compile_, held):
    compile_({"all.md": "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day.\n"})
    report = compile_({"a.md": "# Tower\n\nThe north tower of Keldan was built of slate in 1822.\n"}, "acme")
    assert (report.atoms_new, report.atoms_kept, report.atoms_removed) == (1, 1, 0)
    compile_({"a.md": SHARED}, "globex")
    assert len(held()) == 3
    report = compile_({"a.md": "# Tower\n\nThe north tower of Keldan was built of 14 walls.\n"}, "acme")
    assert (report.atoms_new, report.atoms_kept, report.atoms_removed) == (1, 2, 1)
    assert held() == {
        "The north tower of Keldan was built of 14 walls.": {("acme", "a.md")},
        "The ferry Marla leaves Dunmarrow at 9 every day.": {(None, "all.md")},
        "Plums from Orvane grow behind the 14 walls.": {("globex", "a.md")},
    }


def test_one_sentence_of_two_tenants_is_one_atom_at_two_places(compile_, held, tmp_path):
    compile_({"mine.md": SHARED}, "acme")
    report = compile_({"theirs.md": SHARED}, "globex")
    assert (report.atoms_total, report.atoms_new) == (1, 0)
    assert list(held().values()) == [{("acme", "mine.md"), ("globex", "theirs.md")}]
    compile_({"theirs.md": "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day.\n"}, "globex")
    assert held()["Plums from Orvane grow behind the 14 walls."] == {("acme", "mine.md")}
    with Store.open(tmp_path / "store") as store:
        positions = store.keys()[1].tolist()
        assert positions == [position for position, _ in store_keys(list(store.atoms()))]
        assert store.verify().ok


def test_a_file_without_a_title_gets_none_from_another_tenants_copy(compile_, tmp_path):
    text = "The ferry Marla carried 14 walls of slate from Orvane in 1822.\n"
    compile_({"secret plans.txt": text}, "acme")
    compile_({"notes.txt": text}, "globex")
    with Store.open(tmp_path / "store") as store:
        titles = {atom.provenances[0].tenant: atom.title for atom in store.atoms()}
    assert titles == {"acme": "secret plans", "globex": "notes"}


def test_the_store_that_is_there_shapes_new_atoms(compile_, tmp_path):
    compile_({"a.md": SHARED}, "acme")
    wider = SETTINGS.model_copy(update={"adapter": AdapterSettings(rank=4, layers="late:1")})
    other = {"b.md": "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day.\n"}
    (warning,) = compile_(other, "globex", wider).warnings  # not of what was chosen as it is, nor of what was not
    assert warning.endswith("not followed: --rank 4 (it has 2)")
    assert compile_(other, "globex", CompileSettings(on_conflict="newest")).warnings == ()
    with Store.open(tmp_path / "store") as store:
        assert {atom.rank for atom in store.atoms()} == {2}


def test_status_compares_a_tenants_documents_with_its_own(compile_, tmp_path):
    compile_({"a.md": SHARED}, "acme")
    compile_({"a.md": "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day.\n"}, "globex")
    assert status([tmp_path / "documents-acme"], tmp_path / "store", tenant="acme").up_to_date
    assert status([tmp_path / "documents-globex"], tmp_path / "store", tenant="globex").up_to_date
    other = status([tmp_path / "documents-globex"], tmp_path / "store", tenant="acme")
    assert other.files.changed == ("a.md",)
    assert not status([tmp_path / "documents-acme"], tmp_path / "store").up_to_date


def test_behaviours_stay_and_are_every_tenants(compile_, tmp_path):
    examples = tmp_path / "calm.jsonl"
    examples.write_text('{"input": "Who steers the Marla?", "output": "slow west"}\n')
    compile_({"a.md": SHARED}, "acme", examples=[examples])
    compile_({"b.md": "# Ferry\n\nThe ferry Marla leaves Dunmarrow at 9 every day.\n"}, "globex")
    with Store.open(tmp_path / "store") as store:
        assert sorted(atom.type for atom in store.atoms()).count("behaviour") == 1


def test_a_tenants_last_documents_can_be_taken_away(compile_, held, tmp_path):
    compile_({"all.md": SHARED})
    compile_({"a.md": SHARED, "b.md": "# Tower\n\nThe north tower of Keldan was built of slate in 1822.\n"}, "acme")
    with pytest.raises(InputError, match=r"holds no document that can be used.*has of 'acme', add --allow-empty"):
        compile_({}, "acme")
    with pytest.raises(InputError, match="holds no document") as refused:
        compile_({}, "globex")  # which has none: nothing would be taken away
    assert "--allow-empty" not in str(refused.value)
    report = compile_({}, "acme", allow_empty=True)
    assert (report.atoms_total, report.atoms_new, report.atoms_removed) == (1, 0, 1)
    assert held() == {"Plums from Orvane grow behind the 14 walls.": {(None, "all.md")}}
    with pytest.raises(InputError, match="no such file or folder"):
        compile_corpus([tmp_path / "nowhere"], tmp_path / "store", SETTINGS, device="cpu", allow_empty=True)


def test_a_version_without_atoms_opens_abstains_and_grows_again(compile_, held, tiny_world, tmp_path):
    compile_({"all.md": SHARED})
    with pytest.raises(InputError, match=r"empty\.md: holds no words"):  # a file that cannot be read is not gone
        compile_({"empty.md": "---\n"}, allow_empty=True)
    for _ in range(2):
        report = compile_({}, allow_empty=True)
        assert report.atoms_total == 0
    with AtomLoRA.open(tmp_path / "store", device="cpu", embedder=tiny_world.embedder) as model:
        assert model.route("What grows behind the 14 walls?").abstained
        for mode in ("atoms", "text", "both", "auto", "none"):
            assert model.ask("What grows behind the 14 walls?", mode=mode, max_new_tokens=2).atoms == ()
        assert [one.abstained for one in model.ask_batch(["Who?", "What?"], max_new_tokens=2)] == [True, True]
    with Store.open(tmp_path / "store") as store:
        assert store.verify().ok
    assert compile_({"all.md": SHARED}).atoms_new == 1
    assert list(held()) == ["Plums from Orvane grow behind the 14 walls."]


@pytest.mark.parametrize(
    ("src", "examples", "tenant"), [(["a.md"], ["x"], "acme"), ([], ["x"], "acme"), (["a"], [], " ")]
)
def test_a_tenant_has_documents_only(src, examples, tenant):
    with pytest.raises(UsageError, match="--tenant"):
        behaviour_files(src, examples, None, None, tenant)
