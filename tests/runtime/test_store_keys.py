"""The texts by which a store's atoms are found."""

import pytest

from atomlora.atom import Atom
from atomlora.errors import StoreError
from atomlora.runtime.keys import open_router, store_attributes, store_keys


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


def owned(atom, *tenants, source="ferry.md"):
    place = atom.provenances[0]
    places = tuple(place.model_copy(update={"tenant": tenant, "source": source}) for tenant in tenants)
    return atom.model_copy(update={"provenances": places})


def test_no_key_holds_the_text_of_another_tenant(world):
    """Two tenants have a file of the same name, and one sentence stands in both."""
    mine = [owned(world.atoms[0], "acme"), owned(world.atoms[1], "acme")]
    theirs = [owned(world.atoms[2], "globex"), owned(world.atoms[3], "acme", "globex")]
    keys = store_keys([*mine, *theirs])
    assert any(mine[1].text in text for position, text in keys if position == 0)
    for position, text in keys:
        if position > 1:
            assert not any(atom.text in text for atom in mine)
        if position != 2:
            assert theirs[0].text not in text


def test_attributes_are_the_places_and_labels_of_each_atom(world):
    atom = owned(world.atoms[0], "acme", None).model_copy(update={"labels": ("harbour",)})
    (found,) = store_attributes([atom])
    assert found.labels == ("harbour",)
    assert [(place.source, place.tenant) for place in found.places] == [("ferry.md", "acme"), ("ferry.md", None)]


def test_provenances_of_older_stores_belong_to_nobody_in_particular(world):
    line = world.atoms[0].model_dump_json(exclude={"provenances": {0: {"tenant"}}})
    assert '"tenant"' not in line
    assert Atom.model_validate_json(line) == world.atoms[0]
    assert world.atoms[0].tenants == frozenset([None])
