"""Conflicts as they are seen on the command line."""

import json

import pytest

from atomlora.conflicts.records import ConflictRecord, Side
from atomlora.store import Store

QUESTION = "The ferry Marla: when does the ferry leave and who steers the ferry?"
FEW = ("--top-k", "4", "--max-new-tokens", "3")


@pytest.fixture
def disputed(store, words):
    """The store, with its two atoms on the ferry in conflict; the second is the newer."""
    with Store.open(store) as opened:
        atoms = list(opened.atoms())
        manifest, keys = opened.manifest, opened.keys()
    sides = [
        Side(atom=atom.id, source=source, sentence=atom.text, value=value, date=date)
        for atom, source, value, date in zip(
            atoms[:2], ("ferry-2015.md", "ferry-2023.md"), ("nine", "ten"), ("2015", "2023"), strict=True
        )
    ]
    record = ConflictRecord(older=sides[0], newer=sides[1], kind="time", decided_by="the date in the document (2023)")
    with Store.writer(store) as writer:
        writer.finished()
        writer.commit(
            atoms,
            keys,
            base=manifest.base,
            embedder=manifest.embedder,
            settings={**manifest.settings, "on_conflict": "newest"},
            recipe=manifest.recipe,
            targets=manifest.targets,
            calibration=manifest.calibration,
            conflicts=[record],
        )
    return store


def ask(run, store, *options):
    return json.loads(run("ask", store, QUESTION, "--json", *FEW, *options).stdout)


def test_the_compiled_choice_holds_unless_the_option_says_otherwise(run, disputed):
    newest = ask(run, disputed)
    (conflict,) = newest["conflicts"]
    assert (conflict["source_a"], conflict["source_b"]) == ("ferry-2015.md", "ferry-2023.md")
    assert [one["id"] for one in newest["dropped"]] == [conflict["a"]]
    assert "ferry-2023.md (2023) is newer" in newest["dropped"][0]["reason"]
    assert conflict["a"] not in [atom["id"] for atom in newest["atoms"]]
    warned = ask(run, disputed, "--on-conflict", "warn")
    assert warned["conflicts"] == newest["conflicts"]
    assert {conflict["a"], conflict["b"]} <= {atom["id"] for atom in warned["atoms"]}
    assert warned["dropped"] == []


def test_error_ends_with_a_message_and_code_1(run, disputed):
    result = run("ask", disputed, QUESTION, *FEW, "--on-conflict", "error")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert (
        "Error: the documents disagree: ferry-2015.md (2015) says nine, ferry-2023.md (2023) says ten" in result.stderr
    )
    assert run("ask", disputed, QUESTION, "--on-conflict", "oldest").exit_code == 2


def test_people_see_both_sources(run, disputed):
    shown = run("ask", disputed, QUESTION, *FEW).stdout
    assert "conflict:" in shown
    assert "left out:" in shown
    atom = ask(run, disputed)["conflicts"][0]["a"]
    assert "ferry-2023.md (2023) says ten" in run("show", disputed, atom).stdout
