"""Who leads, beside whom, and what becomes of the statements."""

from hypothesis import given
from hypothesis import strategies as st

from atomlora.composer import Selection
from atomlora.router import RoutedAtom
from atomlora.turns import adds, joined, turns


def selection(*weights):
    return Selection(atoms=tuple(RoutedAtom(id=f"a{n}", weight=w, score=w) for n, w in enumerate(weights)))


def mounted(turn):
    return {atom.id: atom.weight for atom in turn.atoms}


def test_every_atom_leads_once_beside_the_others_at_their_gates():
    first, second, third = turns(selection(0.75, 0.5, 0.25))
    assert mounted(first) == {"a0": 1.0, "a1": 0.5, "a2": 0.25}
    assert mounted(second) == {"a0": 0.75, "a1": 1.0, "a2": 0.25}
    assert mounted(third) == {"a0": 0.75, "a1": 0.5, "a2": 1.0}
    assert [turn.atoms[0].id for turn in (first, second, third)] == ["a0", "a1", "a2"]


def test_without_atoms_the_bare_base_has_the_turn():
    (turn,) = turns(Selection())
    assert turn.atoms == ()


def test_behaviours_stand_beside_every_statement_and_lead_none():
    calm = RoutedAtom(id="calm", weight=1.0, score=1.0)
    chosen = selection(0.75, 0.5).model_copy(update={"beside": (calm,)})
    first, second = turns(chosen)
    assert mounted(first) == {"a0": 1.0, "a1": 0.5, "calm": 1.0}
    assert mounted(second) == {"a0": 0.75, "a1": 1.0, "calm": 1.0}
    assert [turn.atoms[0].id for turn in (first, second)] == ["a0", "a1"]
    (alone,) = turns(Selection(beside=(calm,)))
    assert mounted(alone) == {"calm": 1.0}
    assert mounted(chosen.whole()) == {"a0": 0.75, "a1": 0.5, "calm": 1.0}
    assert mounted(chosen.bare()) == {"calm": 1.0}


def test_a_repeated_statement_is_said_once():
    said = ["The tower was built of slate.", "the tower was built of slate", "built of slate", "", "It is high."]
    assert joined(said) == "The tower was built of slate.\nIt is high."
    assert joined(["Slate.", "Slate, they say."]) == "Slate.\nSlate, they say."
    assert joined([""]) == ""
    assert joined(["", "Slate."]) == "Slate."
    assert joined(["…"]) == "…"  # what the bare base says is left alone
    assert not adds("late", ["the late one"])
    assert adds("late", ["slate"])  # words, not letters
    assert adds("The hold has 18 °C.", ["The hold has -18 °C."])
    assert adds("The deposit is $30.", ["The deposit is €30."])


@given(st.lists(st.text(alphabet="ab 1.,", max_size=8), max_size=5))
def test_no_word_is_lost(statements):
    kept = joined(statements).split("\n")
    assert all(not adds(one, kept) for one in statements)
