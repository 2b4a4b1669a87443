"""Which of two atoms is newer, and by what."""

import numpy as np
import pytest

from atomlora.answers import Dropped
from atomlora.composer import Selection
from atomlora.conflicts.find import find_conflicts
from atomlora.conflicts.newest import FIRST_VERSION, newest
from atomlora.conflicts.policy import conflict_policy
from atomlora.conflicts.records import checked_choice
from atomlora.conflicts.seen import tellable
from atomlora.errors import ConflictError, UsageError
from atomlora.router import RoutedAtom

OLD = "Each passenger may bring 30 kilograms of luggage."
NEW = "Each passenger may bring 23 kilograms of luggage."


@pytest.mark.parametrize(
    ("one", "two", "second", "said"),
    [
        (("2015-05-01", "document"), ("2023-01-09", "document"), True, "the date in the document (2023-01-09)"),
        (("2023", "name"), ("2015", "name"), False, "the date in its title or file name (2023)"),
        (("2015", "name"), ("2024-06-01T00:00:00Z", "properties"), True, "recorded properties (2024-06-01T00:00:00Z)"),
        (("2024-06-01T10:00:00Z", "file"), ("2024-06-01T11:00:00Z", "file"), True, "time of modification"),
    ],
)
def test_dates_decide(make_atom, one, two, second, said):
    a, b = make_atom(OLD, "a.md", *one), make_atom(NEW, "b.md", *two)
    verdict = newest(a, b, {})
    assert verdict is not None
    assert verdict.second is second
    assert said in verdict.decided_by
    other = newest(b, a, {})
    assert other is not None
    assert other.second is not second


def test_where_dates_do_not_tell_the_first_version_does(make_atom):
    a = make_atom(OLD, "a.md", "2024-06-01T10:00:00Z", "file")
    b = make_atom(NEW, "b.md", "2024-06-01T10:00:30Z", "file")  # as a checkout makes them
    assert newest(a, b, {a.id: 0, b.id: 0}) is None
    verdict = newest(a, b, {a.id: 0, b.id: 2})
    assert verdict is not None
    assert (verdict.second, verdict.decided_by) == (True, FIRST_VERSION)
    year, day = make_atom(OLD, "a.md", "2024", "name"), make_atom(NEW, "b.md", "2024-06-01", "document")
    assert newest(year, day, {}) is None


def conflicts_of(*atoms):
    vectors = np.ones((len(atoms), 4), np.float32) / 2
    return find_conflicts(atoms, vectors, lambda ids: dict.fromkeys(ids, 0))


def selection_of(*atoms):
    return Selection(atoms=tuple(RoutedAtom(id=atom.id, weight=0.9, score=1.0) for atom in atoms))


@pytest.fixture
def old(make_atom):
    question = ("How much luggage may a passenger bring?", "30 kilograms")
    return make_atom(OLD, "luggage-2015.md", "2015", "name", question=question)


@pytest.fixture
def new(make_atom):
    return make_atom(NEW, "luggage-2023.md", "2023", "name")


def test_a_conflict_names_both_sources_values_and_the_question(old, new, make_atom):
    other = make_atom("Beehives travel on the last sailing.", "luggage-2015.md", "2015", "name")
    (found,) = conflicts_of(new, other, old)
    assert (found.older.source, found.older.value) == ("luggage-2015.md", "30 kilograms")
    assert (found.newer.source, found.newer.value) == ("luggage-2023.md", "23 kilograms")
    assert found.question == "How much luggage may a passenger bring?"
    assert found.reason == (
        "luggage-2015.md (2015) says 30 kilograms, luggage-2023.md (2023) says 23 kilograms; the latter is newer by "
        "the date in its title or file name (2023)"
    )


def test_warn_notes_the_conflict_and_keeps_both(old, new):
    kept = conflict_policy(conflicts_of(old, new), "warn")(selection_of(old, new))
    assert [atom.id for atom in kept.atoms] == [old.id, new.id]
    (noted,) = kept.conflicts
    assert (noted.source_a, noted.source_b, noted.newer) == ("luggage-2015.md", "luggage-2023.md", new.id)
    assert kept.dropped == ()


def test_newest_drops_the_older_one_and_says_why(old, new):
    kept = conflict_policy(conflicts_of(old, new), "newest")(selection_of(old, new))
    assert [atom.id for atom in kept.atoms] == [new.id]
    reason = (
        "luggage-2023.md (2023) is newer by the date in its title or file name (2023) and says 23 kilograms instead "
        "of 30 kilograms"
    )
    assert kept.dropped == (Dropped(id=old.id, reason=reason),)
    assert len(kept.conflicts) == 1


def test_newest_keeps_both_where_neither_is_known_to_be_newer(make_atom):
    a, b = make_atom(OLD, "a.md"), make_atom(NEW, "b.md")
    kept = conflict_policy(conflicts_of(a, b), "newest")(selection_of(a, b))
    assert len(kept.atoms) == 2
    assert "neither is known to be newer" in kept.conflicts[0].reason
    assert kept.conflicts[0].newer is None


def test_error_names_both_sources_and_what_to_do(old, new):
    policy = conflict_policy(conflicts_of(old, new), "error")
    with pytest.raises(ConflictError, match=r"luggage-2015\.md .* luggage-2023\.md .*--on-conflict newest or warn"):
        policy(selection_of(old, new))
    assert policy(selection_of(old)) == selection_of(old)


def test_an_unknown_choice_is_a_usage_error():
    assert checked_choice(None) is None
    with pytest.raises(UsageError, match="--on-conflict oldest: unknown; use newest, warn, error"):
        checked_choice("oldest")


def test_what_two_tenants_say_of_the_same_thing_is_no_conflict(old, new):
    assert conflicts_of(owned(old, "acme"), owned(new, "globex")) == []
    assert len(conflicts_of(owned(old, "acme"), owned(new, "acme"))) == 1
    assert len(conflicts_of(owned(old, None), owned(new, "globex"))) == 1  # whoever is globex is told both


def owned(atom, *tenants):
    """The atom in a document of each tenant."""
    places = tuple(place.model_copy(update={"tenant": one}) for one in tenants for place in atom.provenances)
    return atom.model_copy(update={"provenances": places})


def at(atom, source, date, tenant):
    """The atom in one more document."""
    place = atom.provenances[0].model_copy(update={"source": source, "date": date, "tenant": tenant})
    return atom.model_copy(update={"provenances": (*atom.provenances, place)})


@pytest.mark.parametrize("owner", [None, "acme"])
def test_another_tenants_documents_are_neither_named_nor_judged_by(old, new, owner):
    mine = at(owned(old, owner), "secret merger.md", "2024", "rival")
    (found,) = conflicts_of(mine, owned(new, owner))
    assert (found.older.source, found.older.date, found.newer.date) == ("luggage-2015.md", "2015", "2023")
    assert "secret" not in found.reason


def test_of_a_sentence_of_two_tenants_neither_is_told(old, new):
    (found,) = conflicts_of(owned(old, "acme", "rival"), new)
    assert {found.older.source, found.newer.source} == {None, "luggage-2023.md"}
    assert found.decided_by is None
    vectors = np.ones((2, 4), np.float32) / 2
    (found,) = find_conflicts([owned(old, "acme", "rival"), new], vectors, lambda ids: {old.id: 0, new.id: 1})
    assert found.decided_by is None


def test_records_of_older_compiles_tell_nothing_of_other_tenants(old, new):
    hidden = at(owned(old, "acme"), "secret merger.md", "2024", "rival")
    (fair,) = conflicts_of(old, new)
    leaking = fair.model_copy(
        update={
            "older": fair.newer,
            "newer": fair.older.model_copy(update={"source": "secret merger.md", "date": "2024"}),
            "decided_by": "the date in its title or file name (2024)",
        }
    )
    (told,) = tellable([leaking], {hidden.id: hidden, new.id: new})
    assert (told.newer.source, told.newer.date, told.decided_by) == (None, None, None)
    assert "2024" not in told.reason
    kept = conflict_policy([told], "newest")(selection_of(old, new))
    assert len(kept.atoms) == 2
    assert tellable([fair], {old.id: old, new.id: new}) == [fair]
    by_version = fair.model_copy(update={"decided_by": FIRST_VERSION})
    (told,) = tellable([by_version], {hidden.id: at(old, "secret merger.md", "2010", "rival"), new.id: new})
    assert (told.older, told.newer, told.decided_by) == (fair.older, fair.newer, None)


def test_versions_are_asked_only_of_what_dates_do_not_settle(old, new, make_atom):
    def never(ids):
        raise AssertionError(ids)

    vectors = np.ones((2, 4), np.float32) / 2
    assert len(find_conflicts([old, new], vectors, never)) == 1
    undated = make_atom(NEW, "b.md")
    (found,) = find_conflicts([old, undated], vectors, lambda ids: {old.id: 1, undated.id: 0})
    assert (found.newer.atom, found.decided_by) == (old.id, FIRST_VERSION)
