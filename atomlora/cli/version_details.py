"""What `log` and `diff` print."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import click

from atomlora.cli import render
from atomlora.cli.options import print_json
from atomlora.store import Difference, Evaluation, EvaluationFolder, Manifest, Store
from atomlora.store.differences import AtomFact
from atomlora.store.evaluations import moved
from atomlora.store.manifest import ManifestFolder
from atomlora.store.refs import tags_by_version

SHOWN = 20  # atoms of a kind that `diff` lists before the rest is only counted


class History(NamedTuple):
    """Versions, newest first, with their tags, evaluations and how these moved; `head` is the current version."""

    head: str
    manifests: list[Manifest]
    tags: dict[str, list[str]]
    evaluations: dict[str, list[Evaluation]]
    moved: dict[str, dict[str, float]]


def read_history(where: Path | str, everything: bool) -> History:
    """The current version and its ancestors, or every version of the store by the time it was made."""
    with Store.open(where) as store:
        manifests, head, path = store.log(), store.version, store.path
    if everything:
        folder = ManifestFolder(path / "manifests")
        line = {manifest.version for manifest in manifests}
        others = [folder.read(version) for version in folder.versions() if version not in line]
        # By time; where two were made in the same second a version still comes before its parent.
        manifests = sorted([*manifests, *others], key=lambda one: one.created, reverse=True)
    kept = EvaluationFolder(path)
    evaluations = {one.version: kept.of(one.version) for one in manifests}
    return History(head, manifests, tags_by_version(path), evaluations, moved(manifests, evaluations))


def show_history(history: History, as_json: bool) -> None:
    """The versions, newest first."""
    if as_json:
        print_json({"head": history.head, "versions": [_version(one, history) for one in history.manifests]})
        return
    header = ["version", "created", "atoms", "new", "removed", "failed", "base", "tags", "scores", "message"]
    rows = [
        [
            ("* " if one.version == history.head else "  ") + one.version[:12],
            one.created,
            *(one.stats.get(f"atoms_{name}", "-") for name in ("total", "new", "removed", "failed")),
            one.base.name,
            " ".join(history.tags.get(one.version, [])),
            scores(history, one.version),
            one.message,
        ]
        for one in history.manifests
    ]
    render.table(header, rows)


def scores(history: History, version: str) -> str:
    """`atoms .841 (+.017) routing .954`, of the latest evaluation."""
    found = history.evaluations.get(version, [])
    if not found:
        return ""
    changes = history.moved.get(version, {})
    return " ".join(
        f"{name} {value:.3f}" + (f" ({changes[name]:+.3f})" if name in changes else "")
        for name, value in found[-1].scores().items()
    )


def show_difference(found: Difference, as_json: bool) -> None:
    """Counts, then the atoms of each kind: + added, - removed, ~ with other weights, > moved."""
    if as_json:
        print_json(found.model_dump(mode="json"))
        return
    click.echo(
        f"{found.a[:12]} to {found.b[:12]}: {len(found.added)} added, {len(found.removed)} removed, "
        f"{len(found.retrained)} with other weights, {len(found.moved)} moved, {found.unchanged} unchanged"
    )
    for name, (before, now) in found.settings.items():
        click.echo(f"  {name}: {render.one_line(str(before))} -> {render.one_line(str(now))}")
    for mark, atoms in (("-", found.removed), ("+", found.added), ("~", found.retrained)):
        _list(f"  {mark} {_fact(atom)}" for atom in atoms[:SHOWN])
        _more(mark, len(atoms))
    for atom in found.moved[:SHOWN]:
        places = f"{', '.join(atom.before)} -> {', '.join(atom.now)}"
        _list([f'  > {atom.id[:12]}  {places}  "{render.one_line(atom.text, render.QUOTED)}"'])
    _more(">", len(found.moved))


def _version(manifest: Manifest, history: History) -> dict[str, Any]:
    kept = manifest.model_dump(mode="json", exclude={"targets", "segments", "calibration"})
    version = manifest.version
    return {
        "version": version,
        **kept,
        "segments": len(manifest.segments),
        "tags": history.tags.get(version, []),
        "evaluations": [
            {**one.model_dump(mode="json"), "scores": one.scores()} for one in history.evaluations.get(version, [])
        ],
        "moved": history.moved.get(version, {}),
    }


def _fact(atom: AtomFact) -> str:
    place = "(no document)" if atom.source is None else f"{render.one_line(atom.source)}:{atom.start}-{atom.end}"
    return f'{atom.id[:12]}  {place}  "{render.one_line(atom.text, render.QUOTED)}"'


def _list(lines: Any) -> None:
    for line in lines:
        click.echo(line)


def _more(mark: str, count: int) -> None:
    if count > SHOWN:
        click.echo(f"  {mark} … and {count - SHOWN} more (--json lists all)")
