"""What a filter lets pass, and that a tenant's wall holds: at any k, under any index, with every part of the score."""

from functools import lru_cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.errors import StoreError, UsageError
from atomlora.router import EVERYTHING, AtomAttributes, Calibration, Place, RouteFilter, Router, RouterSettings
from atomlora.router import index as index_module
from atomlora.router.filters import AttributeTable

DIMENSION = 32
WORDS = [a + b for a in "bdfgklmnprst" for b in ("alder", "irch", "edar", "oak", "ine")]
KINDS = ["flat", "hnsw", "ivf", "ivfpq"]


@lru_cache(None)
def state(word: str) -> np.ndarray:
    row = np.random.default_rng(int.from_bytes(word.encode()[:8].ljust(8), "little")).normal(size=DIMENSION)
    return (row / np.linalg.norm(row)).astype(np.float32)


class WordVectors:
    """The sum of fixed random word vectors, of unit length."""

    name, fingerprint, dimension = "words", "words-1", DIMENSION

    def encode(self, texts):
        sums = np.array([np.sum([state(w) for w in text.lower().split()], axis=0) for text in texts], np.float32)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)


class WordStates(WordVectors):
    """The same with a state for every word, so that routes have the part of late interaction."""

    fingerprint = "states-1"

    def encode_tokens(self, texts):
        def ids(text):
            return tuple(int.from_bytes(w.encode()[:8].ljust(8), "little") % 5003 for w in text.lower().split())

        return [(np.array([state(w) for w in t.lower().split()], np.float32), ids(t)) for t in texts]


def make_atoms(count: int = 420) -> tuple[list[str], list[AtomAttributes]]:
    """Texts over a small vocabulary, a third of the words each tenant's own."""
    random = np.random.default_rng(7)
    texts, attributes = [], []
    for number in range(count):
        owners = [("acme",), ("globex",), (None,), ("acme", "globex"), ("acme", None)][int(random.integers(5))]
        texts.append(" ".join(random.choice(WORDS, 6)))
        places = tuple(Place(f"{owner or 'all'}/{number % 9}.md", f"20{number % 20 + 10}", owner) for owner in owners)
        attributes.append(AtomAttributes(("even",) if number % 2 == 0 else (), places))
    return texts, attributes


TEXTS, ATTRIBUTES = make_atoms()


def make_router(numbers: list[int], embedder=None, kind: str = "flat", **options) -> Router:
    """Three keys an atom; `numbers` are those of the atoms that are in the store."""
    embedder = embedder or WordVectors()
    texts = [TEXTS[n] for n in numbers]
    keys = [key for text in texts for key in (text, text.split(" ", 1)[1], text.rsplit(" ", 1)[0])]
    return Router(
        embedder,
        embedder.encode(keys),
        np.repeat(np.arange(len(texts)), 3).astype(np.int32),
        [str(n) for n in numbers],
        keys,
        Calibration(threshold=0.0) if not isinstance(embedder, WordStates) else Calibration(threshold=0.0, late=True),
        RouterSettings(index=kind, min_weight=0.0, **options),
        documents=texts,
        attributes=[ATTRIBUTES[n] for n in numbers],
    )


def seen_by(tenant: str | None) -> set[int]:
    return {n for n, one in enumerate(ATTRIBUTES) if any(place.tenant in (tenant, None) for place in one.places)}


EVERY = list(range(len(TEXTS)))
ROUTERS = {(kind, late): make_router(EVERY, late(), kind) for kind in KINDS for late in (WordVectors, WordStates)}
questions = st.lists(st.sampled_from([*WORDS, "zebra"]), min_size=1, max_size=6).map(" ".join)
filters = st.builds(
    RouteFilter,
    tenant=st.sampled_from(["acme", "globex", "nobody", None]),
    labels=st.sampled_from([(), ("even",), ("even", "odd")]),
    sources=st.sampled_from([(), ("acme",), ("*/3.md",), ("all/1.md", "globex/*"), ("nowhere",)]),
    since=st.sampled_from([None, "2012", "2015-06"]),
    until=st.sampled_from([None, "2020-01-01", "2025"]),
)


def passes(where: RouteFilter, one: AtomAttributes) -> bool:
    """The filter's words once more, without masks."""

    def good(place: Place) -> bool:
        folder, name = place.source.split("/")
        wanted = {
            "acme": folder == "acme",
            "*/3.md": name == "3.md",
            "all/1.md": place.source == "all/1.md",
            "globex/*": folder == "globex",
            "nowhere": False,
        }
        year = int(place.date or 0)
        return (
            place.tenant in (where.tenant, None)
            and (not where.sources or any(wanted[source] for source in where.sources))
            and (where.since is None or year >= int(where.since[:4]))
            and (where.until is None or year <= int(where.until[:4]))
        )

    return set(where.labels) <= set(one.labels) and any(good(place) for place in one.places)


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(ROUTERS, key=str)), questions, filters, st.integers(1, 500), st.booleans())
def test_nothing_that_the_filter_shuts_out_is_ever_routed(which, question, where, top_k, walk) -> None:
    """`walk`: small selections are left to FAISS as well."""
    limit = index_module.EXACT_SELECTION
    index_module.EXACT_SELECTION = 0 if walk else limit
    try:
        route = ROUTERS[which].route(question, top_k, where)
    finally:
        index_module.EXACT_SELECTION = limit
    allowed = {str(n) for n, one in enumerate(ATTRIBUTES) if passes(where, one)}
    assert {atom.id for atom in route.atoms} <= allowed
    assert ROUTERS[which].count(where) == len(allowed)
    if not allowed:
        assert (route.abstained, route.confidence) == (True, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([WordVectors, WordStates]), questions, st.sampled_from(["acme", "globex", "nobody", None]))
def test_a_tenant_is_scored_as_if_it_were_alone(late, question: str, tenant: str | None) -> None:
    """Scores, gates and confidence to the last digits: rarities tell nothing of the others' documents."""
    alone = ALONE[late, tenant].route(question, 30, RouteFilter(tenant=tenant))
    beside = ROUTERS["flat", late].route(question, 30, RouteFilter(tenant=tenant))
    assert [atom.id for atom in beside.atoms] == [atom.id for atom in alone.atoms]
    assert [a.score for a in beside.atoms] == pytest.approx([a.score for a in alone.atoms], abs=1e-5)
    assert [a.weight for a in beside.atoms] == pytest.approx([a.weight for a in alone.atoms], abs=1e-5)
    assert beside.confidence == pytest.approx(alone.confidence, abs=1e-5)


ALONE = {
    (late, tenant): make_router(sorted(seen_by(tenant)), late())
    for late in (WordVectors, WordStates)
    for tenant in ("acme", "globex", "nobody", None)
}


@settings(max_examples=40, deadline=None)
@given(questions)
def test_labels_sources_and_dates_leave_atoms_out_and_change_no_score(question: str) -> None:
    router = ROUTERS["flat", WordStates]
    whole = {atom.id: atom.score for atom in router.route(question, 400, RouteFilter(tenant="acme")).atoms}
    narrowed = router.route(question, 400, RouteFilter(tenant="acme", labels=("even",), until="2019"))
    common = [atom for atom in narrowed.atoms if atom.id in whole]
    assert common
    assert [atom.score for atom in common] == pytest.approx([whole[atom.id] for atom in common], abs=1e-6)


def test_without_tenants_in_the_store_nothing_is_filtered_and_everything_is_everybodys() -> None:
    plain = make_router(EVERY)
    plain.attributes = AttributeTable([AtomAttributes()] * len(EVERY))
    question = TEXTS[5]
    assert plain._world(None) is None
    assert plain.route(question).atoms[0].id == "5"
    assert plain.route(question, where=RouteFilter(tenant="anyone")).atoms[0].id == "5"
    assert plain.route(question, where=RouteFilter(sources=("x",))).abstained


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("late", [WordVectors, WordStates])
def test_removed_atoms_are_as_if_they_had_never_been(kind: str, late) -> None:
    gone = [str(n) for n in range(0, len(TEXTS), 3)]
    router = make_router(EVERY, late(), kind)
    rest = make_router([n for n in EVERY if n % 3], late(), kind)
    router.route("bedar", where=EVERYTHING)
    router.remove(gone)
    for where in (EVERYTHING, RouteFilter(tenant="acme"), RouteFilter(tenant="acme", labels=("even",))):
        for question in (TEXTS[0], TEXTS[3], TEXTS[7], "bedar goak"):
            found, wanted = router.route(question, 30, where), rest.route(question, 30, where)
            assert not {atom.id for atom in found.atoms} & set(gone)
            if kind == "flat":
                assert [atom.id for atom in found.atoms] == [atom.id for atom in wanted.atoms]
            scores = {atom.id: atom.score for atom in wanted.atoms}
            common = [atom for atom in found.atoms if atom.id in scores]
            assert len(common) > 0.8 * len(wanted.atoms)
            assert [a.score for a in common] == pytest.approx([scores[a.id] for a in common], abs=1e-5)
    with pytest.raises(UsageError, match="not in this version"):
        router.remove(["0", "nothing"])


def test_who_runs_the_store_sees_all_of_it() -> None:
    router = ROUTERS["flat", WordVectors]
    for number in (3, 8, 200):
        assert router.route(TEXTS[number], where=EVERYTHING).atoms[0].id == str(number)
    assert router.count(EVERYTHING) == len(TEXTS)
    assert router.count() == len(seen_by(None))


@pytest.mark.parametrize(
    ("source", "wanted", "passes"),
    [
        ("policies/travel.md", "policies/travel.md", True),
        ("policies/travel.md", "policies", True),
        ("policies/travel.md", "policies/", True),
        ("policies/travel.md", "policies/*.md", True),
        ("policies/old/travel.md", "policies/*.md", True),
        ("policies2/travel.md", "policies", False),
        ("lines.jsonl#7", "lines.jsonl", True),
        ("lines.jsonl#7", "lines.jsonl#7", True),
        ("lines.jsonl#70", "lines.jsonl#7", False),
        ("a[1].md", "a[1].md", True),
        ("A.md", "a.md", False),
    ],
)
def test_sources_are_documents_folders_files_of_lines_and_patterns(source: str, wanted: str, passes: bool) -> None:
    assert RouteFilter(sources=(wanted,)).admits(Place(source)) is passes


@pytest.mark.parametrize(
    ("when", "since", "until", "passes"),
    [
        ("2024-03-12", "2024-03-12", "2024-03-12", True),
        ("2024-03-12", "2024-03-13", None, False),
        ("2024-03-12", None, "2024-03-11", False),
        ("2024-03-12T09:30:00Z", "2024", "2024-03", True),
        ("2024-03-12T09:30:00Z", "2024-03-12T09:31Z", None, False),
        ("2024", "2024-06", "2024-07-01", True),
        ("2023", "2024-06", None, False),
        (None, "2000", None, False),
        (None, None, None, True),
    ],
)
def test_dates_are_periods_of_their_own_precision(when, since, until, passes: bool) -> None:
    assert RouteFilter(since=since, until=until).admits(Place("a.md", when)) is passes


def test_one_place_has_to_pass_for_everything() -> None:
    """An old copy in one folder and a new one elsewhere do not make a new one in that folder."""
    table = AttributeTable([AtomAttributes((), (Place("old/a.md", "2001"), Place("new/a.md", "2024", "acme")))])
    assert table.allowed(RouteFilter(sources=("old",), until="2002")).tolist() == [True]
    assert table.allowed(RouteFilter(tenant="acme", sources=("old",), since="2020")).tolist() == [False]
    assert table.allowed(RouteFilter(sources=("new",))).tolist() == [False]
    assert table.allowed(RouteFilter(tenant="acme", sources=("new",))).tolist() == [True]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tenant": " "}, "tenant"),
        ({"since": "yesterday"}, "write it like 2024"),
        ({"until": "2024-13"}, "write it like 2024"),
        ({"since": "2024-02", "until": "2024-01-31"}, "is after until"),
        ({"tenant": "a", "every_tenant": True}, "exclude"),
        ({"colour": 1}, "colour"),
    ],
)
def test_filters_refuse_nonsense(given: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RouteFilter(**given)


def test_attributes_that_do_not_fit_are_refused() -> None:
    no_keys = np.zeros((0, DIMENSION), np.float32), np.zeros(0, np.int32)
    with pytest.raises(StoreError, match="attributes of 1 atoms"):
        Router(WordVectors(), *no_keys, [], [], attributes=[AtomAttributes()])
