"""Predictions from records, and what the policy does about them."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from atomlora.composer import Selection
from atomlora.interference.policy import InterferencePolicy, PolicySettings, store_policies
from atomlora.interference.predict import POWER, Pair, Predictor, damage, strain_at
from atomlora.interference.records import PairRecord
from atomlora.router import RoutedAtom

IDS = [letter * 64 for letter in "abcdefgh"]


def selection(*weights):
    atoms = [RoutedAtom(id=i, weight=w, score=1.0) for i, w in zip(IDS, weights, strict=False)]
    return Selection(atoms=tuple(atoms))


@pytest.fixture
def policy():
    """policy(**settings): a's statement is lost beside b; c and d disturb nobody."""
    quiet = {(x, y): (0.001, 0.0001) for x in IDS[:4] for y in IDS[:4] if x != y}
    predictor = Predictor(quiet | {(IDS[0], IDS[1]): (2.0, 0.5)})
    return lambda **settings: InterferencePolicy(predictor, PolicySettings(**settings))


def expected(policy, chosen):
    return [
        one.damage for one in policy.predictor.stack([a.id for a in chosen.atoms], [a.weight for a in chosen.atoms])
    ]


def test_damage_grows_with_strain_and_comes_back():
    assert damage(0) == 0
    curve = [damage(strain) for strain in (0.01, 0.1, 1.0, 10.0, 100.0)]
    assert curve == sorted(curve)
    assert 0 < curve[0] < 5 < 95 < curve[-1] < 100
    assert damage(strain_at(10.0)) == pytest.approx(10.0)
    pair = Pair(2.0, 3.0)
    assert pair.weight(pair.at(0.3)) == pytest.approx(0.3)
    assert pair.weight(0.0) == pair.weight(-1.0) == 0.0
    assert Pair(0.0, 3.0).weight(0.1) > 1


def test_a_pair_is_predicted_as_measured_and_more_weakly_at_a_lower_weight(policy):
    predictor = policy().predictor
    assert predictor.pair(IDS[0], IDS[1]).at(1.0) == 2.0
    # between the half that was measured and what the power of all pairs says
    assert predictor.pair(IDS[0], IDS[1]).at(0.5) == pytest.approx((0.5 * 2 * 0.5**POWER) ** 0.5)
    whole, half = (predictor.stack(IDS[:2], (1.0, weight))[0] for weight in (1.0, 0.5))
    assert whole.worst == half.worst == 1
    assert whole.strain == 2.0
    assert half.strain < whole.strain
    assert half.damage < whole.damage
    assert predictor.stack(IDS[:1], (1.0,))[0] == (0.0, 0.0, None)


def test_pairs_without_a_record_are_those_of_a_frail_and_a_loud_atom():
    measured = {(x, y): (0.1, 0.02) for x in IDS[:5] for y in IDS[:5] if x != y and (x, y) != (IDS[0], IDS[4])}
    measured |= {(x, IDS[4]): (1.0, 0.2) for x in IDS[1:4]} | {(IDS[0], y): (0.5, 0.1) for y in IDS[1:4]}
    predictor = Predictor(measured)
    unknown = predictor.pair(IDS[0], IDS[4])
    assert unknown.strain > 0.4  # both are worse than most
    mean = math.exp(sum(math.log(whole) for whole, _ in measured.values()) / len(measured))
    assert predictor.pair(IDS[6], IDS[7]).strain == pytest.approx(mean)
    assert Predictor({}).pair(IDS[0], IDS[1]).strain == 0.0


def test_records_of_older_stores_are_read_with_their_peaks_made_up():
    old = {"other": IDS[1], "delta_nll": 0.2, "half_delta_nll": -0.01, "overlap": 0.1, "kl": 0.2, "flips": 0.0}
    record = PairRecord.model_validate(old)
    assert (record.delta_nll, record.peak, record.half_peak) == (0.2, pytest.approx(4.0), 0.0)
    assert PairRecord.model_validate(record.model_dump()) == record
    with pytest.raises(ValidationError, match="delta_nll"):
        PairRecord.model_validate({"other": IDS[1], "half_delta_nll": 0.1})


def test_what_harms_nobody_passes_untouched(policy):
    chosen = selection(0.9, 0.0, 0.4, 0.3)
    for action in ("downweight", "drop", "warn", "alone"):
        assert policy(action=action)(chosen) == chosen
    assert policy(action="off")(selection(0.9, 0.9)) == selection(0.9, 0.9)


def test_downweighting_keeps_every_atom_and_says_so(policy):
    done = policy(action="downweight", tolerance=10)(selection(0.9, 0.8, 0.4))
    assert [atom.id for atom in done.atoms] == IDS[:3]
    assert done.atoms[1].weight < 0.8
    assert (done.atoms[0].weight, done.atoms[2].weight) == (0.9, 0.4)
    assert max(expected(policy(), done)) <= 10.0
    assert not done.dropped
    (note,) = done.conflicts
    assert (note.a, note.b) == (IDS[0], IDS[1])
    assert "0.80" in note.reason
    assert f"{done.atoms[1].weight:.2f}" in note.reason


def test_dropping_leaves_out_the_lower_ranked_and_says_why(policy):
    done = policy(action="drop")(selection(0.9, 0.8, 0.4))
    assert [atom.id for atom in done.atoms] == [IDS[0], IDS[2]]
    (gone,) = done.dropped
    assert gone.id == IDS[1]
    assert IDS[0][:12] in gone.reason
    assert "points of recall" in gone.reason


def test_warning_changes_nothing_that_is_mounted(policy):
    done = policy(action="warn")(selection(0.9, 0.8, 0.4))
    assert done.atoms == selection(0.9, 0.8, 0.4).atoms
    assert [(c.a, c.b) for c in done.conflicts] == [(IDS[0], IDS[1])]


def test_falling_back_keeps_the_first_atom(policy):
    done = policy(action="alone")(selection(0.9, 0.8, 0.4))
    assert [atom.id for atom in done.atoms] == IDS[:1]
    assert [gone.id for gone in done.dropped] == IDS[1:3]


@given(
    st.lists(st.floats(0.0, 5.0), min_size=56, max_size=56),
    st.lists(st.floats(0.0, 1.0), min_size=8, max_size=8),
    st.sampled_from(["downweight", "drop", "alone"]),
    st.floats(0.5, 90.0),
)
def test_whatever_was_measured_nothing_beyond_tolerance_is_left(strains, weights, action, tolerance):
    pairs = [(x, y) for x in IDS for y in IDS if x != y]
    measured = {pair: (strain, strain * 0.2) for pair, strain in zip(pairs, strains, strict=True)}
    policy = InterferencePolicy(Predictor(measured), PolicySettings(action=action, tolerance=tolerance))
    chosen = selection(*weights)
    done = policy(chosen)
    assert done.atoms[0].id == IDS[0]
    assert max(expected(policy, done)) <= tolerance + 1e-6
    assert {atom.id for atom in done.atoms} | {gone.id for gone in done.dropped} == set(IDS)
    before = {atom.id: atom.weight for atom in chosen.atoms}
    assert all(atom.weight <= before[atom.id] for atom in done.atoms)


def test_a_store_without_records_has_no_policy(make_store, items):
    from atomlora.store import Store

    with Store.open(make_store(items)) as store:
        assert store_policies(store) == ()
