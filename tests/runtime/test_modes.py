"""Mode auto: what a route tells of a question."""

import pytest

from atomlora.composer import Selection
from atomlora.modes import LONG_WORDS, RIVAL_GATE, SURE_GATE, auto_mode
from atomlora.router import RoutedAtom


class Texts(dict):
    """Atoms by id that have a text and nothing else."""

    def __missing__(self, name):
        return type("Atom", (), {"text": "word " * int(name.split("-")[1])})


def selection(*atoms):
    return Selection(atoms=tuple(RoutedAtom(id=name, weight=weight, score=weight) for name, weight in atoms))


@pytest.mark.parametrize(
    ("atoms", "mode"),
    [
        ((), "atoms"),
        ((("a-9", SURE_GATE),), "atoms"),
        ((("a-9", SURE_GATE - 0.01),), "both"),
        ((("a-9", 0.95), ("b-9", RIVAL_GATE)), "atoms"),
        ((("a-9", 0.95), ("b-9", 0.1), ("c-9", RIVAL_GATE + 0.01)), "both"),
        (((f"a-{LONG_WORDS}", 0.95),), "atoms"),
        (((f"a-{LONG_WORDS + 1}", 0.95),), "both"),
        ((("a-9", 0.95), (f"b-{LONG_WORDS + 1}", 0.1)), "atoms"),
    ],
)
def test_atoms_where_the_route_is_sure_of_one_short_text(atoms, mode):
    assert auto_mode(selection(*atoms), Texts()) == mode


def test_the_answer_names_the_mode_that_was_chosen(opened, monkeypatch):
    for chosen in ("atoms", "both"):
        monkeypatch.setattr("atomlora.asking.auto_mode", lambda *_, chosen=chosen: chosen)
        answer = opened.ask("Who steers the ferry?", mode="auto", max_new_tokens=6)
        wanted = opened.ask("Who steers the ferry?", mode=chosen, max_new_tokens=6)
        assert answer.mode == chosen
        assert answer.model_dump(exclude={"latency_ms"}) == wanted.model_dump(exclude={"latency_ms"})
