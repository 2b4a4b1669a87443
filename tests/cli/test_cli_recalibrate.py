"""`recalibrate`: another threshold, in a version of its own, and nothing else."""

import json

import pytest

from atomlora.errors import StoreError
from atomlora.recalibrate import recalibrate
from atomlora.store import Store


def state(store):
    with Store.open(store) as opened:
        return opened.manifest, [atom.id for atom in opened.atoms()]


def test_a_recalibrated_store_differs_in_its_calibration_alone(run, store):
    before, atoms = state(store)
    result = run("recalibrate", store, "--alpha", "0.2", "--json")
    assert result.exit_code == 0, result.output
    done = json.loads(result.stdout)
    after, same_atoms = state(store)
    assert done["version"] == after.version != before.version
    assert (after.parent, after.message) == (before.version, "recalibrated, alpha 0.2")
    assert (after.keys, after.segments, after.recipe, same_atoms) == (
        before.keys,
        before.segments,
        before.recipe,
        atoms,
    )
    assert after.calibration["threshold"] == done["threshold"]
    assert after.calibration["alpha"] == done["alpha"] == 0.2
    assert after.stats["atoms_since_calibration"] == 0
    assert run("checkout", store, "HEAD~1").exit_code == 0
    assert state(store)[0].calibration == before.calibration


def test_questions_that_the_store_does_not_cover_count(run, store, tmp_path):
    foreign = tmp_path / "foreign.jsonl"
    foreign.write_text("\n".join(json.dumps({"question": f"Who steers ferry number {n}?"}) for n in range(40)))
    plain = json.loads(run("recalibrate", store, "--json").stdout)
    strict = json.loads(run("recalibrate", store, "--foreign", str(foreign), "--json").stdout)
    assert strict["stats"]["negatives"] == plain["stats"]["negatives"] + 40
    assert strict["threshold"] != plain["threshold"]
    assert strict["threshold_before"] == plain["threshold"]


def test_it_is_told_in_words_too(run, store):
    shown = run("recalibrate", store).stdout.splitlines()
    assert shown[0].startswith(f"{store}: silent below confidence 0.")
    assert "general_abstained" in shown[1]


@pytest.mark.parametrize("alpha", ["0", "1", "-3"])
def test_a_share_out_of_range_is_refused(run, store, alpha):
    before = state(store)[0].version
    result = run("recalibrate", store, f"--alpha={alpha}")
    assert result.exit_code == 2
    assert "--alpha" in result.stderr
    assert state(store)[0].version == before


def test_a_mistyped_path_leaves_nothing_behind(tmp_path):
    with pytest.raises(StoreError, match="typo: no such folder"):
        recalibrate(tmp_path / "typo")
    assert list(tmp_path.iterdir()) == []


def test_a_version_that_comes_in_between_is_not_lost(store, monkeypatch):
    def writer_after_another(path, real=Store.writer):
        with Store.open(path) as opened, real(path) as other:
            other.recommit(list(opened.atoms()), "came in between")
        return real(path)

    monkeypatch.setattr(Store, "writer", writer_after_another)
    with pytest.raises(StoreError, match="a new version came in between; run the same command again"):
        recalibrate(store)
    assert state(store)[0].message == "came in between"


def test_another_embedder_of_that_name_is_refused(run, store, words):
    words.fingerprint = "0" * 64
    before = state(store)[0].version
    result = run("recalibrate", store)
    assert result.exit_code == 1
    assert "was compiled with embedder" in result.stderr
    assert state(store)[0].version == before


def test_foreign_questions_that_are_none_are_refused(run, store, tmp_path):
    before, _ = state(store)
    (tmp_path / "empty.jsonl").write_text("\n")
    result = run("recalibrate", store, "--foreign", tmp_path / "empty.jsonl")
    assert (result.exit_code, "empty.jsonl: holds no question" in result.stderr) == (1, True)
    assert state(store)[0] == before
