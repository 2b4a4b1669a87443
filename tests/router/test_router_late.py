"""Late interaction: the scores against a plain loop, the cache of token states, and what routing makes of it."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.errors import StoreError
from atomlora.router import Calibration, Router, RouterSettings, TokenEmbedder, fit_calibration
from atomlora.router import late as module
from atomlora.router.cache import read_cache, write_cache
from atomlora.router.features import LATE_GATE, LATE_SCOPE, gate_features, scope_features
from atomlora.router.late import STOP_WEIGHT, open_late
from atomlora.router.scores import RIVAL_SCORE, Scorer

WORDS = ["amber", "anvil", "barge", "beacon", "canvas", "cedar", "copper", "ferry", "gannet", "kelp"]
WORDS += ["the", "is"]
DIMENSION = 32


class WordStates:
    """One token a word, whose state is a fixed random unit vector; a text's vector is their sum."""

    name = "states"
    dimension = DIMENSION

    def __init__(self, fingerprint: str = "states-1") -> None:
        self.fingerprint = fingerprint
        self.asked: list[str] = []

    def _ids(self, text: str) -> tuple[int, ...]:
        words = text.lower().replace("?", " ? ").replace(".", " ").split()
        return tuple(int.from_bytes(word.encode()[:8].ljust(8), "little") % 5003 for word in words)

    def encode_tokens(self, texts):
        self.asked += texts
        found = []
        for text in texts:
            ids = self._ids(text)
            rows = [np.random.default_rng(i).normal(size=DIMENSION) for i in ids]
            states = np.array(rows, np.float32).reshape(len(ids), DIMENSION)
            found.append((states / np.linalg.norm(states, axis=1, keepdims=True), ids))
        return found

    def encode(self, texts):
        sums = np.array([states.sum(0) for states, _ in self.encode_tokens(texts)], np.float32)
        sums = sums.reshape(len(texts), DIMENSION)
        return sums / np.maximum(np.linalg.norm(sums, axis=1, keepdims=True), 1e-6)


class VectorsOnly:
    """The same without token states."""

    name, fingerprint, dimension = "vectors", "vectors-1", DIMENSION

    def encode(self, texts):
        return WordStates().encode(texts)


DOCUMENTS = [f"{a} the {b}. {c}" for a, b, c in zip(WORDS, WORDS[3:] + WORDS, WORDS[5:] + WORDS, strict=False)]
some_words = st.lists(st.sampled_from([*WORDS, "zebra"]), max_size=6).map(" ".join)


def make_router(embedder, documents=DOCUMENTS, calibration=None, **options) -> Router:
    positions = np.arange(len(DOCUMENTS), dtype=np.int32)
    return Router(
        embedder,
        embedder.encode(DOCUMENTS),
        positions,
        [f"atom-{p}" for p in positions],
        DOCUMENTS,
        calibration,
        RouterSettings(abstain=False),
        documents=documents,
        **options,
    )


def by_hand(question: str, documents: list[str]) -> list[float]:
    """MaxSim with weights, word by word."""
    embedder = WordStates()
    held = [embedder.encode_tokens([document])[0] for document in documents]
    states, ids = embedder.encode_tokens([question])[0]
    stop = {i for _, ids in embedder.encode_tokens([*module.STOP_WORDS, "? ' s"]) for i in ids}
    weights = []
    for token in ids:
        count = sum(token in held_ids for _, held_ids in held)
        rarity = np.log(1 + (len(documents) - count + 0.5) / (count + 0.5))
        weights.append(rarity * (STOP_WEIGHT if token in stop else 1.0))
    scores = []
    for document, _ in held:
        best = [max(float(row @ state) for row in document) for state in states] if len(document) else [0.0]
        scores.append(float(np.average(best, weights=weights)) if len(document) and sum(weights) else 0.0)
    return scores


@settings(max_examples=40, deadline=None)
@given(some_words, st.lists(some_words, min_size=1, max_size=6))
def test_scores_equal_a_plain_loop(question: str, documents: list[str]) -> None:
    index = open_late(WordStates(), documents)
    assert index is not None
    got = index.score(WordStates().encode_tokens([question])[0], np.arange(len(documents)))
    np.testing.assert_allclose(got, by_hand(question, documents), atol=2e-3)
    assert got.dtype == np.float32


def test_atoms_are_scored_in_the_order_asked_for_and_alone_as_together() -> None:
    index = open_late(WordStates(), DOCUMENTS)
    question = WordStates().encode_tokens(["copper ferry"])[0]
    whole = index.score(question, np.arange(len(DOCUMENTS)))
    order = np.array([5, 0, 7])
    np.testing.assert_allclose(index.score(question, order), whole[order], atol=1e-6)
    for atom in order:
        np.testing.assert_allclose(index.score(question, np.array([atom])), whole[[atom]], atol=1e-6)
    assert index.score(question, np.zeros(0, np.int64)).shape == (0,)


def test_float16_rows_give_what_ready_rows_give(monkeypatch: pytest.MonkeyPatch) -> None:
    question, atoms = WordStates().encode_tokens(["amber kelp is"])[0], np.arange(len(DOCUMENTS))
    ready = open_late(WordStates(), DOCUMENTS)
    monkeypatch.setattr(module, "READY_TOKENS", 0)
    stored = open_late(WordStates(), DOCUMENTS)
    assert (ready.states.dtype, stored.states.dtype) == (np.float32, np.float16)
    np.testing.assert_array_equal(stored.score(question, atoms), ready.score(question, atoms))


def test_rare_words_weigh_more_than_common_ones_and_stop_words_least() -> None:
    embedder = WordStates()
    index = open_late(embedder, ["the ferry amber", "the ferry", "the barge"])
    weights = index.weights(embedder.encode_tokens(["zebra amber ferry the"])[0][1])
    assert (np.diff(weights) < 0).all()
    assert weights[-1] < 0.1


def test_the_cache_serves_the_second_opening_and_only_what_is_new_is_computed(tmp_path: Path) -> None:
    path, embedder = tmp_path / "cache" / "tokens", WordStates()
    first = open_late(embedder, DOCUMENTS, path)
    embedder.asked.clear()
    second = open_late(embedder, DOCUMENTS, path)
    assert embedder.asked == []
    np.testing.assert_array_equal(first.states, second.states)
    changed = ["a new one", *DOCUMENTS[3:], DOCUMENTS[0]]
    third = open_late(embedder, changed, path)
    assert embedder.asked == ["a new one"]
    fresh = open_late(WordStates(), changed)
    np.testing.assert_array_equal(third.states, fresh.states)
    np.testing.assert_array_equal(third.starts, fresh.starts)
    question = embedder.encode_tokens(["copper the kelp"])[0]
    np.testing.assert_array_equal(
        third.score(question, np.arange(len(changed))), fresh.score(question, np.arange(len(changed)))
    )
    # another embedder's states are none of ours
    other = WordStates("states-2")
    open_late(other, changed, path)
    assert set(changed) <= set(other.asked)


def test_every_damaged_cache_is_rebuilt(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    want = open_late(WordStates(), DOCUMENTS[:3], path)
    whole = path.read_bytes()
    random = np.random.default_rng(1)
    damaged = [b"", b"\n", b"[]\n", b"{}\nabc", whole[:40], whole[:-1], whole + b"x"]
    for place in [*random.integers(0, len(whole), 40), *random.integers(0, 400, 20)]:
        flipped = bytearray(whole)
        flipped[place] ^= 1 << int(random.integers(8))
        damaged.append(bytes(flipped))
    for data in damaged:
        # as another program would leave it: a new file, since the old one may still be mapped
        path.unlink()
        path.write_bytes(data)
        got = open_late(WordStates(), DOCUMENTS[:3], path)
        np.testing.assert_array_equal(got.states, want.states)
        assert path.read_bytes() == whole


def test_a_whole_cache_with_parts_that_do_not_fit_is_rebuilt(tmp_path: Path) -> None:
    path, embedder = tmp_path / "tokens", WordStates()
    want = open_late(embedder, DOCUMENTS, path)
    stamp = f"{module.FORMAT} {embedder.fingerprint}"
    arrays = read_cache(path, stamp)
    for name, part in (("starts", arrays["starts"][:-1]), ("ids", arrays["ids"][1:]), ("states", arrays["ids"])):
        write_cache(path, stamp, {**arrays, name: part})
        np.testing.assert_array_equal(open_late(embedder, DOCUMENTS, path).states, want.states)
    write_cache(path, stamp, {"states": arrays["states"]})
    np.testing.assert_array_equal(open_late(embedder, DOCUMENTS, path).states, want.states)


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert open_late(WordStates(), DOCUMENTS, tmp_path / "file" / "tokens").atoms == len(DOCUMENTS)


ROUTER = make_router(WordStates())


@settings(max_examples=30, deadline=None)
@given(st.lists(some_words.filter(str.strip), max_size=12))
def test_a_batch_gives_what_single_questions_give(questions: list[str]) -> None:
    assert ROUTER.route_batch(questions) == [ROUTER.route(question) for question in questions]


def test_late_interaction_is_in_the_score_and_can_overrule_the_keys() -> None:
    """Both atoms' keys are equal; only the documents tell them apart."""
    embedder = WordStates()
    keys = ["a barge", "a barge"]
    parts = (embedder, embedder.encode(keys), np.array([0, 1], np.int32), ["dull", "amber"], keys)
    documents = ["barge of cedar", "barge of amber"]
    options = RouterSettings(abstain=False, min_weight=0.0)
    router = Router(*parts, settings=options, documents=documents)
    late = router.route("the amber barge")
    plain = Router(*parts, settings=options).route("the amber barge")
    assert [a.id for a in plain.atoms] == ["dull", "amber"]
    assert plain.atoms[0].score == plain.atoms[1].score
    assert late.atoms[0].id == "amber"
    part = router.scorer.late.score(embedder.encode_tokens(["the amber barge"])[0], np.array([1]))[0]
    weight = RouterSettings().late_weight
    assert late.atoms[0].score == pytest.approx(plain.atoms[0].score + weight * part, abs=1e-5)


def test_every_document_routes_to_its_own_atom_with_a_gate_near_one() -> None:
    for number, text in enumerate(DOCUMENTS):
        route = ROUTER.route(text)
        assert route.atoms[0].id == f"atom-{number}"
        assert route.atoms[0].weight > 0.9
        assert all(atom.weight < 0.5 for atom in route.atoms[1:])


def test_an_embedder_without_token_states_routes_as_without_documents() -> None:
    assert isinstance(WordStates(), TokenEmbedder)
    assert not isinstance(VectorsOnly(), TokenEmbedder)
    plain, given_documents = make_router(VectorsOnly(), None), make_router(VectorsOnly())
    assert given_documents.route("amber ferry") == plain.route("amber ferry")
    assert given_documents.scorer.late is None
    assert given_documents.calibration == Calibration()


def test_a_calibration_counts_only_for_the_scores_it_was_fitted_on() -> None:
    embedder = WordStates()
    with_late = make_router(embedder, calibration=Calibration.default(True))
    assert with_late.scorer.late is not None
    assert with_late.calibration.gate == LATE_GATE
    # fitted without: late interaction stays off
    assert make_router(embedder, calibration=Calibration(threshold=0.1)).scorer.late is None
    # fitted with, but the states cannot be had: the defaults without it
    bare = make_router(embedder, None, Calibration.default(True))
    assert bare.calibration == Calibration()
    assert make_router(embedder).calibration == Calibration.default(True)


def test_one_document_per_atom() -> None:
    with pytest.raises(StoreError, match="2 documents do not fit 12 atoms"):
        make_router(WordStates(), DOCUMENTS[:2])


def test_an_empty_store_and_empty_documents() -> None:
    embedder = WordStates()
    vectors, none = np.zeros((0, DIMENSION), np.float32), np.zeros(0, np.int32)
    assert Router(embedder, vectors, none, [], [], documents=[]).route("amber").abstained
    assert fit_calibration(embedder, vectors, none, [], documents=[]) == Calibration.default(True)
    route = make_router(embedder, [""] * len(DOCUMENTS)).route(DOCUMENTS[0])
    assert route.atoms[0].id == "atom-0"


def test_calibration_with_documents_is_deterministic_and_says_so(tmp_path: Path) -> None:
    embedder = WordStates()
    texts = [t for d in DOCUMENTS for t in (d, f"where is {d}?")]
    positions = np.repeat(np.arange(len(DOCUMENTS)), 2).astype(np.int32)
    parts = (embedder, embedder.encode(texts), positions, texts)
    cache = tmp_path / "tokens"
    fitted = fit_calibration(*parts, documents=DOCUMENTS, token_cache=cache)
    assert fitted == fit_calibration(*parts, documents=DOCUMENTS)
    assert cache.is_file()
    assert fitted.late
    assert Calibration.model_validate_json(fitted.model_dump_json()) == fitted
    assert fitted.stats["questions"] == len(DOCUMENTS)
    assert not fit_calibration(*parts).late
    assert len(fitted.scope) == len(LATE_SCOPE)
    # a question key is no part of a document: leaving it out changes no late score
    scorer = Scorer(*parts[1:], len(DOCUMENTS), RouterSettings(), late=open_late(embedder, DOCUMENTS))
    tokens = embedder.encode_tokens([texts[1]])[0]
    left = scorer.score_left_out(texts[1], parts[1][1], 0, frozenset({1}), tokens)
    kept = scorer.score_batch([texts[1]], parts[1][[1]], [tokens])[0]
    np.testing.assert_allclose(left.late[left.atoms == 0], kept.late[kept.atoms == 0], atol=1e-6)
    assert left.dense_max[left.atoms == 0] <= kept.dense_max[kept.atoms == 0]


def test_features_of_late_scores() -> None:
    embedder = WordStates()
    vectors, tokens = embedder.encode(["amber the barge"]), embedder.encode_tokens(["amber the barge"])
    with_late = ROUTER.scorer.score_batch(["amber the barge"], vectors, tokens)[0]
    without = ROUTER.scorer.score_batch(["amber the barge"], vectors)[0]
    assert without.late is None
    assert without.rival == RIVAL_SCORE < with_late.rival
    assert scope_features(with_late).shape == scope_features(without).shape == (3,)
    assert scope_features(with_late)[0] == scope_features(without)[0]
    gate = Calibration.default(True).gates(with_late)[0]
    assert scope_features(with_late)[2] == pytest.approx((gate - 0.5) / 0.25)
    assert scope_features(without)[2] == pytest.approx((Calibration().gates(without)[0] - 0.5) / 0.25)
    before = Calibration(late=True, scope=(2.12, 2.06, 1.91))
    margin = scope_features(with_late)[:2] @ np.array([2.12, 2.06]) + 1.91
    assert before.confidence(with_late) == pytest.approx(1 / (1 + np.exp(-margin)))
    assert scope_features(with_late)[1] == pytest.approx((with_late.late.max() - 0.6) / 0.15, abs=1e-6)
    assert gate_features(with_late).shape == (len(with_late.atoms), 2)
