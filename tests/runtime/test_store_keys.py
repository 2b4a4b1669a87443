"""The texts by which a store's atoms are found."""

import pytest

from atomlora.errors import StoreError
from atomlora.runtime.keys import open_router, store_keys


def test_keys_name_neighbours_in_the_same_document(world):
    keys = store_keys(world.atoms)
    assert [position for position, _ in keys] == sorted(position for position, _ in keys)
    of = {number: [text for position, text in keys if position == number] for number in range(4)}
    together = f"{world.atoms[0].text} {world.atoms[1].text}"
    assert together in of[0]
    assert together in of[1]
    assert of[2] == [
        "The tower was built of slate.",
        "Tower. The tower was built of slate.",
        "What was the tower built of?",
    ]


def test_keys_of_other_texts_are_refused(world, opened):
    atom = world.atoms[3].model_copy(update={"questions": ()})
    atoms = [*world.atoms[:3], atom]
    with pytest.raises(StoreError, match="keys do not fit"):
        open_router(opened.store, atoms, embedder=world.embedder)
