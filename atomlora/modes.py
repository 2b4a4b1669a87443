"""Mode auto: which mode answers a question, by what its route tells before anything is asked.

Where the router is sure of one atom, its statement is all that is needed, and the cheapest; where several atoms compete
or the leading text is long, the right words are likelier found with the retrieved texts beside the statements. The
limits are fitted on the sample corpus (bench/RESULTS.md).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from atomlora.answers import Mode

if TYPE_CHECKING:
    from atomlora.atom import Atom
    from atomlora.composer import Selection

SURE_GATE = 0.7  # least gate of the leading atom
RIVAL_GATE = 0.3  # most of any other
LONG_WORDS = 40  # of the leading atom's text


def auto_mode(selection: Selection, atoms: Mapping[str, Atom]) -> Mode:
    """`atoms` or `both` for a question with this selection; `atoms` where nothing was routed."""
    if not selection.atoms:
        return "atoms"
    first, *others = selection.atoms
    sure = first.weight >= SURE_GATE and all(other.weight <= RIVAL_GATE for other in others)
    return "atoms" if sure and len(atoms[first.id].text.split()) <= LONG_WORDS else "both"
