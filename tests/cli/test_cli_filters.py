"""`--tenant`, `--source`, `--labelled`, `--since`, `--until` and `--at` of `ask`, `route` and `eval`."""

import json

import pytest

from atomlora import AtomLoRA
from atomlora.asking import answer_atom
from atomlora.router import RouteFilter
from atomlora.store import Store

FEW = ("--max-new-tokens", "4")
TOWER, FERRY, GARDEN = "What was the tower built of?", "When does the ferry leave?", "Which fruit grows in the garden?"
OWNERS = {"ferry.md": ("acme", "2019-05"), "tower.md": ("globex", "2024"), "garden.md": (None, "2024-03-12")}


@pytest.fixture
def shared_store(store):
    """The store with its ferry in acme's hands, its tower in globex's, and a garden for all; the version before is
    everybody's."""
    with Store.writer(store) as writer:
        with Store.open(store) as opened:
            atoms = list(opened.atoms())
        changed = []
        for atom in atoms:
            place = atom.provenances[0]
            tenant, date = OWNERS[place.source]
            place = place.model_copy(update={"tenant": tenant, "date": date})
            labels = ("boats",) if place.source == "ferry.md" else ()
            changed.append(atom.model_copy(update={"provenances": (place,), "labels": labels}))
        writer.recommit(changed, "tenants")
    return store


@pytest.fixture
def found(run, shared_store):
    """The sources to which any of the questions is routed."""

    def ask(*options):
        sources = set()
        for question in (FERRY, TOWER, GARDEN):
            result = run("route", shared_store, question, "--json", "--top-k", "9", *options)
            assert result.exit_code == 0, result.stderr
            sources |= {atom["source"] for atom in json.loads(result.stdout)["atoms"]}
        return sources

    return ask


def test_a_tenant_finds_its_own_and_everybodys(found):
    assert found("--tenant", "acme") == {"ferry.md", "garden.md"}
    assert found("--tenant", "globex") == {"tower.md", "garden.md"}
    assert found() == found("--tenant", "stranger") == {"garden.md"}


def test_ask_goes_by_the_same_filters_in_every_form(run, shared_store, tmp_path):
    alone = json.loads(run("ask", shared_store, TOWER, "--tenant", "globex", "--json", *FEW).stdout)
    assert alone["atoms"][0]["source"] == "tower.md"
    batch = tmp_path / "batch.jsonl"
    batch.write_text(json.dumps({"question": TOWER}) + "\n")
    several = run("ask", shared_store, "--batch", batch, "--tenant", "globex", "--json", *FEW)
    assert json.loads(several.stdout)["atoms"] == alone["atoms"]
    for mode in ("atoms", "text", "both"):
        for stream in ((), ("--stream",)):
            said = run("ask", shared_store, TOWER, "--tenant", "acme", "--mode", mode, *stream, *FEW)
            assert said.exit_code == 0
            assert "tower.md" not in said.stdout
            assert "slate." not in said.stdout.split("\n", 1)[1]


def test_sources_labels_and_dates_narrow(found):
    acme = ("--tenant", "acme")
    assert found(*acme, "--source", "g*.md") == {"garden.md"}
    assert found(*acme, "--source", "ferry.md", "--source", "tower.md") == {"ferry.md"}
    assert found(*acme, "--labelled", "boats") == {"ferry.md"}
    assert found(*acme, "--since", "2024") == {"garden.md"}
    assert found(*acme, "--until", "2020-01-01") == {"ferry.md"}


def test_a_filter_that_nothing_passes_abstains_and_says_so(run, shared_store):
    result = run("ask", shared_store, FERRY, "--labelled", "boast", "--json", *FEW)
    assert result.exit_code == 0
    assert json.loads(result.stdout)["abstained"] is True
    assert "no atom of the store passes" in result.stderr
    assert run("route", shared_store, FERRY, "--tenant", "acme").stderr == ""


def test_a_tenant_without_atoms_is_noted(run, shared_store):
    result = run("route", shared_store, FERRY, "--tenant", "acne")
    assert result.exit_code == 0
    assert "tenant 'acne' has no atoms of its own" in result.stderr


def test_an_earlier_version_is_asked_with_at(run, shared_store, found):
    assert found("--at", "HEAD~1") >= {"tower.md", "ferry.md"}
    said = run("ask", shared_store, TOWER, "--at", "HEAD~1", "--json", *FEW)
    assert json.loads(said.stdout)["atoms"][0]["source"] == "tower.md"


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--since", "soon"), "--since"),
        (("--until", "2024-02-31"), "--until"),
        (("--tenant", " "), "--tenant: is empty; give a name"),
        (("--source", ""), "--source"),
        (("--labelled", ""), "--labelled"),
        (("--since", "2024", "--until", "2023"), "--since"),
    ],
)
def test_what_cannot_be_filtered_by_is_a_usage_error(run, shared_store, options, named):
    for command in ("route", "ask"):
        result = run(command, shared_store, FERRY, *options)
        assert result.exit_code == 2
        assert named in result.stderr


def test_eval_asks_as_a_tenant(run, shared_store, golden):
    def routing(*options):
        result = run("eval", shared_store, golden, "--modes", "extract", "--json", *options, *FEW)
        return json.loads(result.stdout)["routing"]["recall_at_k"]

    assert routing() == 0.25
    assert routing("--tenant", "acme") == 0.75
    assert routing("--tenant", "globex") == 0.5


def test_full_documents_are_rebuilt_from_what_the_tenant_sees(run, shared_store, golden):
    result = run("eval", shared_store, golden, "--modes", "full", "--json", "--tenant", "globex", *FEW)
    assert json.loads(result.stdout)["modes"]["full"]["n"] == 2
    for wrong in (("--modes", "big"), ("--regression",)):
        assert run("eval", shared_store, golden, "--tenant", "acme", *wrong, *FEW).exit_code != 0


def test_show_names_the_tenant(run, shared_store):
    assert "tower.md:80-109 (tenant globex)" in run("show", shared_store).stdout


def test_an_answer_shows_the_place_that_may_be_seen(shared_store):
    """One sentence in the documents of two tenants, under different names."""
    with Store.writer(shared_store) as writer:
        with Store.open(shared_store) as opened:
            atoms = list(opened.atoms())
        place = atoms[2].provenances[0]
        theirs = place.model_copy(update={"tenant": "acme", "source": "secret-plans.md"})
        twice = atoms[2].model_copy(update={"provenances": (theirs, place)})
        writer.recommit([*atoms[:2], twice, atoms[3]], "copied")
    with AtomLoRA.open(shared_store) as model:
        for tenant, source in (("acme", "secret-plans.md"), ("globex", "tower.md")):
            where = RouteFilter(tenant=tenant)
            route = model.route(TOWER, where=where)
            assert route.atoms[0].id == twice.id
            assert answer_atom(route.atoms[0], model.atoms, where).source == source
            assert model.ask(TOWER, max_new_tokens=2, where=where).atoms[0].source == source
        assert twice.id not in [atom.id for atom in model.route(TOWER).atoms]
