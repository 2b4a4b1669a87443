"""Questions on which stacks are tried: the atoms' own, or people's, with what the router finds for them."""

from __future__ import annotations

from collections.abc import Sequence

from atomlora.atom import Atom
from atomlora.golden import GoldenQuestion
from atomlora.interference.lab import wordings
from atomlora.interference.stacking import Asked
from atomlora.metrics import contains
from atomlora.router import EVERYTHING, Router
from atomlora.runtime.keys import open_routes
from atomlora.spread import evenly

ROUTED = 16  # candidates of a question that are kept


def own_questions(atoms: Sequence[Atom], limit: int) -> list[tuple[str, int, str]]:
    """(question, number of the atom, its statement): one training question each of `limit` atoms, evenly spread."""
    numbers = evenly(range(len(atoms)), limit)
    return [(question, number, statement) for number in numbers for question, statement in wordings(atoms[number])[:1]]


def golden_questions(golden: Sequence[GoldenQuestion], atoms: Sequence[Atom], limit: int) -> list[tuple[str, int, str]]:
    """The same of people's questions, `limit` of those that exactly one atom of their sources answers."""
    found = []
    for one in golden:
        own = [
            number
            for number, atom in enumerate(atoms)
            if any(place.source in one.sources for place in atom.provenances)
            and contains(atom.text, one.golden, one.rule)
        ]
        if len(own) == 1:
            found.append((one.question, own[0], atoms[own[0]].text))
    return evenly(found, limit)


def routed_questions(questions: Sequence[tuple[str, int, str]], router: Router, atoms: Sequence[Atom]) -> list[Asked]:
    """The questions with the gates of all that the router finds beside their atom, abstaining and floor left out."""
    if not questions:
        return []
    number = {atom.id: at for at, atom in enumerate(atoms)}
    routes = open_routes(router).route_batch([question for question, _, _ in questions], ROUTED, EVERYTHING)
    return [
        Asked(
            question=question,
            atom=own,
            statement=statement,
            routed=tuple((number[a.id], a.weight) for a in route.atoms if number[a.id] != own),
        )
        for (question, own, statement), route in zip(questions, routes, strict=True)
    ]
