"""`log`, `diff`, `checkout`, `tag`, `gc`, `status` and `eval --record` as their user sees them."""

import json

import pytest

from atomlora.atom import Provenance, atom_identity
from atomlora.corpora import read_corpus, split_document
from atomlora.store import Store, compact


@pytest.fixture
def two_versions(store):
    """The store with a second version, which holds its first three atoms; returns (path, new, old)."""
    with Store.writer(store) as writer:
        known = list(Store.open(store).atoms())
        writer.finished()
        vectors, positions = Store.open(store).keys()
        keep = positions < 3
        head = writer.head
        writer.commit(
            known[:3], (vectors[keep], positions[keep]), base=head.base, embedder=head.embedder,
            settings=head.settings, recipe=head.recipe, targets=head.targets, calibration=head.calibration,
            stats={"atoms_total": 3, "atoms_new": 0, "atoms_removed": 1, "atoms_failed": 0}, message="without plums",
        )  # fmt: skip
    new, old = Store.open(store).versions
    return store, new, old


def test_log_names_versions_and_tags(run, two_versions):
    store, new, old = two_versions
    assert run("tag", store, "first", "HEAD~1").exit_code == 0
    lines = run("log", store).stdout.splitlines()
    assert lines[1].startswith(f"* {new[:12]}")
    assert "without plums" in lines[1]
    assert lines[2].startswith(f"  {old[:12]}")  # in the same column
    assert "first" in lines[2]
    run("checkout", store, "first")
    assert [v["version"] for v in json.loads(run("log", store, "--json").stdout)["versions"]] == [old]
    every = json.loads(run("log", store, "--all", "--json").stdout)
    assert every["head"] == old
    assert {v["version"]: v["tags"] for v in every["versions"]} == {new: [], old: ["first"]}


def test_diff(run, two_versions):
    store, new, old = two_versions
    text = run("diff", store, "HEAD~1").stdout
    assert "0 added, 1 removed, 0 with other weights, 0 moved, 3 unchanged" in text
    assert '"Plums grow in the garden."' in text
    found = json.loads(run("diff", store, new, old, "--json").stdout)
    assert (found["a"], found["b"], found["unchanged"]) == (new, old, 3)
    assert [(atom["source"], atom["text"]) for atom in found["added"]] == [("garden.md", "Plums grow in the garden.")]
    compact(store, "int8")
    assert "3 with other weights" in run("diff", store, "HEAD~1").stdout


def test_rollback_is_one_command(run, two_versions):
    store, new, old = two_versions
    gone = next(atom for atom in Store.open(store, old).atoms() if "Plums" in atom.text)
    assert "removed it (from garden.md)" in run("show", store, gone.id).stderr
    assert json.loads(run("show", store, gone.id, "--at", "HEAD~1", "--json").stdout)["id"] == gone.id
    result = run("checkout", store, "HEAD~1")
    assert old[:12] in result.stdout
    assert f"atomlora checkout {store} {new[:12]}" in result.stderr
    assert run("show", store, gone.id).exit_code == 0
    done = json.loads(run("checkout", store, new, "--json").stdout)
    assert done == {"store": str(store), "version": new, "before": old}
    unknown = run("checkout", store, "yesterday")
    assert (unknown.exit_code, "is no tag" in unknown.stderr) == (1, True)


def test_tags(run, two_versions):
    store, new, old = two_versions
    assert run("tag", store).stdout == ""
    assert run("tag", store, "good", old[:8]).exit_code == 0
    assert json.loads(run("tag", store, "best", "--json").stdout)["tags"] == {"best": new, "good": old}
    taken = run("tag", store, "good")
    assert (taken.exit_code, "--force" in taken.stderr) == (1, True)
    run("tag", store, "best", "--delete")
    assert run("tag", store).stdout.split() == ["good", old[:12]]
    assert run("tag", store, "--delete").exit_code == 2
    assert run("tag", store, "--force").exit_code == 2


def test_gc_and_compact(run, two_versions):
    store, new, _ = two_versions
    kept = json.loads(run("gc", store, "--json").stdout)
    assert (kept["removed"], kept["versions"], kept["compacted"]) == ([], [], None)
    planned = json.loads(run("gc", store, "--keep", "1", "--dry-run", "--json").stdout)
    assert len(planned["versions"]) == 1
    assert len(Store.open(store).versions) == 2
    result = run("gc", store, "--keep", "1", "--compact", "--storage", "int8")
    assert "3 atoms written anew" in result.stdout
    facts = json.loads(run("show", store, next(Store.open(store).atoms()).id, "--json").stdout)
    assert (facts["dtype"], facts["size_bytes"]) == ("int8", 2 * 3 * (16 + 24) + 8 * 2 * 3)
    assert run("verify", store).exit_code == 0
    assert [m.version for m in Store.open(store).log()] != [new]
    assert run("ask", store, "When does the ferry leave?").exit_code == 0
    assert run("gc", store, "--storage", "int8").exit_code == 2
    assert run("gc", store, "--compact", "--dry-run").exit_code == 2


def test_eval_record_and_log(run, two_versions, golden):
    store, new, old = two_versions
    for version in ("HEAD~1", "HEAD"):
        result = run("eval", store, golden, "--modes", "extract,none", "--record", "--at", version, "--json")
        assert result.exit_code == 0
        assert "Recorded with version" in result.stderr
    logged = {v["version"]: v for v in json.loads(run("log", store, "--json").stdout)["versions"]}
    (before,), (now,) = logged[old]["evaluations"], logged[new]["evaluations"]
    assert (before["scores"]["extract"], now["scores"]["extract"]) == (1.0, 0.75)  # nobody knows of plums now
    assert logged[new]["moved"]["extract"] == -0.25
    assert logged[old]["moved"] == {}
    assert before["golden"] == "golden.jsonl"
    line = run("log", store).stdout.splitlines()[1]
    assert "extract 0.750 (-0.250)" in line


@pytest.mark.parametrize("otherwise", [("--steady", "0"), ("--no-second-look",), ("--tenant", "acme")])
def test_log_follows_no_score_that_was_asked_otherwise(run, two_versions, golden, otherwise):
    store, new, old = two_versions
    run("eval", store, golden, "--modes", "extract", "--record", "--at", old, "--json")
    result = run("eval", store, golden, "--modes", "extract", "--record", "--at", new, "--json", *otherwise)
    assert result.exit_code == 0, result.stderr
    logged = {v["version"]: v for v in json.loads(run("log", store, "--json").stdout)["versions"]}
    assert logged[new]["evaluations"]
    assert logged[new]["moved"] == {}


def documents_of(store, folder):
    """Write documents to `folder`, and make their atoms the store's next version."""
    for name, text in {
        "ferry.md": "# Ferry\n\nThe ferry Marla leaves Dunmarrow at nine. Captain Osk Berrin steers her since 1987.\n",
        "tower.md": "# Tower\n\nThe north tower of Keldan was built of slate in 1822.\n",
        "garden.md": "# Garden\n\nPlums from Orvane grow behind the 14 walls.\n",
    }.items():
        (folder / name).write_text(text)
    passages = [passage for document in read_corpus([folder]) for passage in split_document(document)]
    known = list(Store.open(store).atoms())
    weights = [Store.open(store).weights(atom.id) for atom in known]
    with Store.writer(store) as writer:
        head, atoms = writer.head, []
        for passage, atom in zip(passages, known, strict=True):
            identity = (passage.title, passage.headings, passage.text, atom.questions)
            place = {name: getattr(passage, name) for name in ("source", "start", "end", "source_sha256")}
            changes = {"text": passage.text, "title": passage.title, "headings": passage.headings}
            changes["id"] = atom_identity(head.base.fingerprint, head.recipe, *identity)
            atoms.append(atom.model_copy(update={**changes, "provenances": (Provenance(**place),)}))
        writer.write_segment(list(zip(atoms, weights, strict=True)))
        writer.commit(
            atoms, Store.open(store).keys(), base=head.base, embedder=head.embedder, settings={}, recipe=head.recipe,
            targets=head.targets,
        )  # fmt: skip


def test_status_shows_drift(run, store, tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    documents_of(store, folder)
    calm = json.loads(run("status", folder, store, "--json").stdout)
    assert (calm["up_to_date"], calm["files"]["unchanged"], calm["atoms"]["kept"]) == (True, 3, 4)
    assert "up to date" in run("status", folder, store).stdout
    (folder / "deep").mkdir()
    (folder / "tower.md").rename(folder / "deep" / "tower.md")
    (folder / "garden.md").unlink()
    (folder / "ferry.md").write_text((folder / "ferry.md").read_text().replace("nine", "ten"))
    (folder / "a  name.md").write_text("# Only a heading too\n\nA heron stood at Vennet in 1911.\n")
    (folder / "new.md").write_text("# News\n\nThe harbour of Torrisk opens in May 1931.\n")
    (folder / "blank.md").write_text("# Only a heading\n")
    (folder / "binary.md").write_bytes(b"\0\1\2")
    found = json.loads(run("status", folder, store, "--json").stdout)
    files, atoms = found["files"], found["atoms"]
    assert (files["new"], files["changed"], files["removed"]) == (["a  name.md", "new.md"], ["ferry.md"], ["garden.md"])
    assert files["moved"] == [{"before": "tower.md", "now": "deep/tower.md"}]
    assert (files["empty"], [one["source"] for one in files["skipped"]]) == (["blank.md"], ["binary.md"])
    assert (atoms["new"], atoms["kept"], atoms["removed"], atoms["stale"]) == (3, 2, 2, 0)
    assert found["up_to_date"] is False
    text = run("status", folder, store).stdout
    for line in ("new new.md", "changed ferry.md", "moved tower.md -> deep/tower.md", "removed garden.md"):
        assert line in " ".join(text.split())
    assert text.splitlines()[0] == "new        a  name.md"  # no other file's name


def test_status_shows_what_is_stale(run, store, tmp_path):
    folder = tmp_path / "documents"
    folder.mkdir()
    documents_of(store, folder)
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Of what is the tower?", "answer": "slate", "source": "tower.md"}\n')
    found = json.loads(run("status", folder, store, "--questions", questions, "--json").stdout)
    # The file asks one atom in other words than the store does, and no longer asks the other three.
    assert (found["atoms"]["stale"], found["atoms"]["kept"], found["up_to_date"]) == (4, 0, False)
    assert found["stale_because"]
    assert run("status", tmp_path / "nowhere", store).exit_code == 1
    assert run("status", folder, tmp_path / "nowhere").exit_code == 1


def test_push_pull_and_ask_at_an_address(run, two_versions, tmp_path, monkeypatch):
    store, new, _ = two_versions
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/remote"
    sent = json.loads(run("push", store, url, "--json").stdout)
    assert (sent["version"], sent["versions"], sent["url"]) == (new, 2, url)
    assert "0 files (0 bytes) and 0 versions sent" in run("push", store, url).stdout
    answer = json.loads(run("ask", url, "When does the ferry leave?", "--json").stdout)
    assert answer["text"] == json.loads(run("ask", store, "When does the ferry leave?", "--json").stdout)["text"]
    assert run("verify", url).exit_code == 0
    assert new[:12] in run("log", url).stdout
    assert run("pull", url, tmp_path / "other").exit_code == 0
    assert Store.open(tmp_path / "other").version == new
    for command in (["gc", url], ["checkout", url, "HEAD~1"], ["tag", url, "x"]):
        refused = run(*command)
        assert (refused.exit_code, "atomlora pull" in refused.stderr) == (2, True)
    assert run("ask", "memory://nowhere/x", "Who?").exit_code == 1


def test_record_refuses_an_address(run, two_versions, golden, tmp_path, monkeypatch):
    store, _, _ = two_versions
    monkeypatch.setenv("ATOMLORA_CACHE", str(tmp_path / "cache"))
    url = f"file://{tmp_path}/remote"
    run("push", store, url)
    result = run("eval", url, golden, "--modes", "extract", "--record")
    assert (result.exit_code, "read-only" in result.stderr) == (1, True)
