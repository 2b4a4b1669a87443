"""Leave-one-out, the logistic fit, the conformal threshold and what the calibration promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atomlora.router import GENERAL_QUESTIONS, Calibration, Router, RouterSettings, fit_calibration
from atomlora.router.calibrate import (
    Table,
    conformal_threshold,
    is_question,
    left_out_questions,
)
from atomlora.router.confidence import people_threshold
from atomlora.router.features import DEFAULT_GATE, scope_features
from atomlora.router.logistic import calibration_error, fit_logistic, probabilities
from atomlora.router.scores import Scorer

numbers = st.floats(-1, 1, width=32)


class LetterEmbedder:
    """Hashed letter trigrams: similar spelling, similar vector. Deterministic and instant."""

    name = "letters"
    fingerprint = "letters-1"
    dimension = 256

    def encode(self, texts):
        rows = np.zeros((len(texts), self.dimension), np.float32)
        for row, text in zip(rows, texts, strict=True):
            padded = f"  {text.lower()} "
            for at in range(len(padded) - 2):
                code = 0
                for letter in padded[at : at + 3]:
                    code = (code * 1009 + ord(letter)) % 1_000_003
                row[code % self.dimension] += 1
        return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-6)


NAMES = ["Arden", "Brisk", "Calder", "Dovel", "Ember", "Fallow", "Garrow", "Hestle"]
NAMES += ["Ivar", "Jorun", "Kelda", "Lorne", "Marrin", "Norwen", "Osric", "Pell"]
FACTS = [("built", "shipyard"), ("painted", "colour"), ("captained", "master"), ("moored", "berth")]


def small_store():
    """64 atoms: (ship, fact), each keyed by a statement and two questions."""
    texts, positions = [], []
    for ship in NAMES:
        for verb, noun in FACTS:
            atom = positions[-1] + 1 if positions else 0
            texts += [
                f"The {noun} record says how the vessel {ship} was {verb}.",
                f"What does the {noun} record of {ship} say?",
                f"How was the {ship} {verb}?",
            ]
            positions += [atom] * 3
    embeddings = LetterEmbedder().encode(texts)
    return embeddings, np.array(positions, np.int32), texts


def test_newton_finds_the_minimum() -> None:
    random = np.random.default_rng(0)
    features = random.normal(size=(400, 3))
    truth = np.array([1.5, -2.0, 0.0, 0.5])
    labels = random.random(400) < probabilities(features, truth)
    found = fit_logistic(features, labels, np.zeros(4), strength=0.1)
    design = np.column_stack([features, np.ones(400)])
    gradient = design.T @ (probabilities(features, found) - labels) + 0.1 * found
    assert np.abs(gradient).max() < 1e-3
    assert np.abs(found - truth).max() < 0.6


def test_without_rows_the_prior_stays_and_separable_rows_stay_finite() -> None:
    prior = np.array(DEFAULT_GATE)
    np.testing.assert_allclose(fit_logistic(np.zeros((0, 2)), np.zeros(0), prior), prior)
    separable = fit_logistic(np.array([[-9.0], [9.0]]), np.array([0, 1]), np.zeros(2))
    assert np.isfinite(separable).all()
    assert separable[0] > 0


def test_calibration_error_of_honest_and_of_boastful_chances() -> None:
    random = np.random.default_rng(1)
    chances = random.random(20_000)
    labels = random.random(20_000) < chances
    assert calibration_error(chances, labels) < 0.02
    assert calibration_error(np.ones(10), np.zeros(10)) == 1.0
    assert calibration_error(np.zeros(0), np.zeros(0)) == 0.0


@given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.floats(0.01, 0.5))
def test_conformal_threshold_gives_up_no_more_than_alpha(confidences: list[float], alpha: float) -> None:
    values = np.array(confidences)
    assert np.mean(values < conformal_threshold(values, alpha)) <= alpha


def test_conformal_threshold_holds_for_new_draws() -> None:
    random = np.random.default_rng(2)
    shares = []
    for _ in range(300):
        seen, new = random.beta(4, 2, 99), random.beta(4, 2, 200)
        shares.append(np.mean(new >= conformal_threshold(seen, 0.05)))
    assert 0.94 < np.mean(shares) < 0.97


def test_questions_are_told_from_statements() -> None:
    assert [is_question(t) for t in ("Who? ", "It was.", "", "谁？")] == [True, False, False, True]


def test_left_out_keys_are_the_question_and_its_rewordings_only() -> None:
    texts = [
        "The hull is oak.",
        "What is the hull made of?",
        "What is the hull made of, then?",
        "Who owns it?",
    ]
    embeddings = LetterEmbedder().encode([*texts, "What is the hull made of?"])
    positions = np.array([0, 0, 0, 0, 1], np.int32)
    asked = left_out_questions(embeddings, positions, np.array([False, True, True, True, True]), 99)
    # key 4 is its atom's only key: nothing would be left to find
    assert {q.key: set(q.without) for q in asked} == {1: {1, 2}, 2: {1, 2}, 3: {3}}
    assert len(left_out_questions(embeddings, positions, np.array([False, True, True, True, True]), 2)) == 1


def test_leaving_out_equals_a_store_without_the_keys() -> None:
    embeddings, positions, texts = small_store()
    exact = RouterSettings(dense_candidates=10_000, lexical_candidates=10_000)
    whole = Scorer(embeddings, positions, texts, 64, exact)
    for key in (1, 50, 191):
        atom = int(positions[key])
        without = frozenset({key})
        kept = np.array([k for k in range(len(texts)) if k not in without])
        smaller = Scorer(embeddings[kept], positions[kept], [texts[k] for k in kept], 64, exact)
        # the mean document length is the one thing that leaving a key out does not redo
        smaller.lexical.mean_length = whole.lexical.mean_length
        want = smaller.score_batch([texts[key]], embeddings[key][None])[0]
        got = whole.score_left_out(texts[key], embeddings[key], atom, without)
        order, wanted = np.argsort(got.atoms), np.argsort(want.atoms)
        np.testing.assert_array_equal(got.atoms[order], want.atoms[wanted])
        for part in ("fused", "dense_max", "dense_mean", "lexical"):
            np.testing.assert_allclose(getattr(got, part)[order], getattr(want, part)[wanted], atol=1e-5)
        kept_in = whole.score_batch([texts[key]], embeddings[key][None])[0]
        assert got.dense_max[got.atoms == atom] < kept_in.dense_max[kept_in.atoms == atom] - 0.05


@pytest.mark.parametrize("atoms", [0, 1, 2])
def test_stores_too_small_to_fit_keep_close_to_the_defaults(atoms: int) -> None:
    embeddings, positions, texts = small_store()
    kept = positions < atoms
    short = [t for t, k in zip(texts, kept, strict=True) if k]
    fitted = fit_calibration(LetterEmbedder(), embeddings[kept], positions[kept], short)
    if atoms == 0:
        assert fitted == Calibration()
    for value in (*fitted.gate, *fitted.scope, fitted.threshold):
        assert np.isfinite(value)
    router = Router(LetterEmbedder(), embeddings[kept], positions[kept], [str(a) for a in range(atoms)], short, fitted)
    route = router.route("How was the Arden built?")
    assert route.abstained == (atoms == 0)


def test_fit_is_deterministic_json_and_good_on_an_easy_store() -> None:
    embeddings, positions, texts = small_store()
    fitted = fit_calibration(LetterEmbedder(), embeddings, positions, texts)
    assert fitted == fit_calibration(LetterEmbedder(), embeddings, positions, texts)
    assert Calibration.model_validate_json(fitted.model_dump_json()) == fitted
    assert fitted.stats["questions"] == 128
    assert fitted.stats["negatives"] == len(GENERAL_QUESTIONS)
    assert fitted.stats["loo_recall_at_1"] <= fitted.stats["loo_recall_at_4"] <= fitted.stats["loo_recall_at_8"]
    assert fitted.stats["loo_recall_at_8"] > 0.9
    assert fitted.stats["loo_abstained"] <= 0.05
    assert fitted.stats["general_abstained"] > 0.9
    assert fitted.stats["gate_ece"] < 0.05


def test_no_feature_gets_a_negative_coefficient() -> None:
    random = np.random.default_rng(4)
    features = random.normal(size=(2000, 2))
    labels = random.random(2000) < probabilities(features, np.array([2.0, -1.5, 0.0]))
    table = Table(features, labels, np.arange(2000) % 5, (1.0, 1.0, 0.0))
    assert fit_logistic(features, labels, np.array([1.0, 1.0, 0.0]), 30.0)[1] < 0
    fitted = table.fit()
    assert fitted[1] == 0
    assert fitted[0] > 0.5
    # what is left is fitted as if the feature had never been there
    np.testing.assert_allclose(
        fitted[[0, 2]], fit_logistic(features[:, :1], labels, np.array([1.0, 0.0]), 30.0), atol=1e-6
    )


def statements_alone():
    embeddings, positions, texts = small_store()
    kept = ~np.array([is_question(t) for t in texts])
    return LetterEmbedder(), embeddings[kept], positions[kept], [t for t, k in zip(texts, kept, strict=True) if k]


def test_statements_alone_keep_the_gates_and_set_the_confidence() -> None:
    fitted = fit_calibration(*statements_alone())
    assert fitted.gate == DEFAULT_GATE
    assert fitted.scope != Calibration().scope
    assert fitted.stats.keys() == {"negatives", "general_abstained"}
    assert fitted.stats["general_abstained"] >= 0.95


def test_calibration_never_abstains_more_than_alpha_on_left_out_questions() -> None:
    embeddings, positions, texts = small_store()
    for alpha in (0.02, 0.1, 0.3):
        stats = fit_calibration(LetterEmbedder(), embeddings, positions, texts, alpha=alpha).stats
        assert stats["loo_abstained"] <= alpha


def test_calibration_refuses_unknown_fields() -> None:
    with pytest.raises(ValueError, match="extra"):
        Calibration.model_validate({"gain": 1})


def test_routes_of_a_store_calibrated_before_stay_and_recalibrating_changes_them() -> None:
    embeddings, positions, texts = small_store()
    old = Calibration(scope=(3.42, 0.75, 2.82), threshold=0.5)
    ids = [str(atom) for atom in range(64)]
    router = Router(LetterEmbedder(), embeddings, positions, ids, texts, old)
    assert router.calibration is old
    question = "How was the Arden painted?"
    vector = LetterEmbedder().encode([question])
    candidates = router.scorer.score_batch([question], vector)[0]
    features = scope_features(candidates)[:2]
    assert router.route(question).confidence == pytest.approx(
        float(probabilities(features[None], np.array(old.scope))[0])
    )
    assert len(fit_calibration(LetterEmbedder(), embeddings, positions, texts).scope) == 4


def test_silence_begins_below_even_or_where_the_share_given_up_says_so() -> None:
    """Statements alone, so that nothing is left out and people's questions stand for answerable ones."""
    parts = statements_alone()
    assert fit_calibration(*parts, alpha=0.3).threshold == 0.5
    thresholds = [fit_calibration(*parts, alpha=alpha).threshold for alpha in (0.001, 0.02, 0.05, 0.3)]
    assert thresholds == sorted(thresholds)
    # as hard as people's questions: no more of these are lost than the share given up
    hard = [f"How was the {ship} {verb}?" for ship in NAMES for verb, _ in FACTS]
    fitted = fit_calibration(*parts, general=hard)
    assert fitted.threshold < 0.5
    assert fitted.stats["general_abstained"] < 0.5


def test_without_a_foreign_question_the_default_confidence_stays() -> None:
    fitted = fit_calibration(*statements_alone(), general=())
    assert fitted.scope == Calibration().scope
    assert fitted.threshold == pytest.approx(people_threshold(False, 0.05))


def test_harder_foreign_questions_make_a_store_less_sure() -> None:
    parts = statements_alone()
    hard = [f"Was the {ship} record {verb}?" for ship in NAMES for verb, _ in FACTS]
    ids = [str(atom) for atom in range(64)]
    sure = []
    for general in (GENERAL_QUESTIONS, (*GENERAL_QUESTIONS, *hard)):
        router = Router(*parts[:3], ids, parts[3], fit_calibration(*parts, general=general))
        sure.append(router.route("How was the Arden record painted?").confidence)
    assert sure[1] < sure[0]


def test_generated_questions_do_not_move_the_confidence() -> None:
    """They are worded like the texts: what is fitted to them takes people's questions for foreign."""
    embeddings, positions, texts = small_store()
    embedder = LetterEmbedder()
    with_questions = fit_calibration(embedder, embeddings, positions, texts)
    none = fit_calibration(embedder, embeddings, positions, texts, questions=np.zeros(len(texts), bool))
    assert with_questions.scope == none.scope
    assert with_questions.gate != none.gate
