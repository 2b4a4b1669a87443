"""What `show`, `verify` and `gc` print."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from atomlora.cli import render
from atomlora.cli.options import print_json

if TYPE_CHECKING:
    from atomlora.atom import Atom, Provenance
    from atomlora.store import RecordType, Store, VerifyReport


def show_atoms(store: Store, as_json: bool) -> None:
    """A table of all atoms, or one object with the short facts of each."""
    if as_json:
        print_json({"version": store.version, "atoms": [_short(atom) for atom in store.atoms()]})
        return
    rows = [
        [atom.id[:12], atom.type, f"{atom.record.recall:.2f}", len(atom.questions), _source(atom), atom.text]
        for atom in store.atoms()
    ]
    render.table(["atom", "type", "recall", "questions", "source", "text"], rows)


def show_atom(store: Store, atom_id: str, as_json: bool) -> None:
    """Everything there is to know of one atom."""
    facts = store.show(atom_id)
    if as_json:
        print_json(facts)
        return
    atom = store.get(atom_id)
    conflicts = [("conflict", one.reason) for one in store.conflicts() if atom.id in one.pair]
    for name, value in [*_lines(atom, facts), *conflicts]:
        click.echo(f"{name:<12} {render.one_line(value)}")


def show_verified(report: VerifyReport, as_json: bool) -> None:
    """What was read, and each problem."""
    if as_json:
        print_json({"ok": report.ok, **report.model_dump(mode="json")})
        return
    click.echo(
        f"{len(report.versions)} versions, {report.atoms} atoms, {report.objects} files, "
        f"{report.size_bytes:,} bytes read: {'all as they must be' if report.ok else 'damaged'}"
    )
    for problem in report.problems:
        harmed = ", ".join(version[:12] for version in problem.versions)
        click.echo(f"  {problem.file}: {problem.reason}; {problem.remedy}" + (f" (harms {harmed})" if harmed else ""))


def collect(
    path: Path, dry_run: bool, keep: int | None, compacting: bool, storage: RecordType | None
) -> dict[str, Any]:
    """Compact where that is wanted, then remove what no version needs; the figures, for JSON."""
    from atomlora.store import Store, compact

    compacted = compact(path, storage) if compacting else None
    with Store.open(path) as store:
        report = store.gc(dry_run, keep)
    return {
        "store": str(path),
        "dry_run": dry_run,
        **report.model_dump(mode="json"),
        "compacted": compacted.model_dump(mode="json") if compacted else None,
    }


def show_collected(report: dict[str, Any], as_json: bool) -> None:
    """What `gc` did or would do."""
    if as_json:
        print_json(report)
        return
    if (done := report["compacted"]) is not None:
        click.echo(
            f"version {done['version'][:12]}: {done['segments_before']} segments became {done['segments_after']}, "
            f"{done['atoms_rewritten']} atoms written anew, weights {done['bytes_before']:,} -> "
            f"{done['bytes_after']:,} bytes"
        )
    what = "would be removed" if report["dry_run"] else "removed"
    click.echo(
        f"{len(report['removed'])} files and {len(report['versions'])} versions {what}, {report['freed_bytes']:,} bytes"
    )


def _short(atom: Atom) -> dict[str, Any]:
    place = atom.provenances[0] if atom.provenances else None
    return {
        "id": atom.id,
        "type": atom.type,
        "title": atom.title,
        "text": atom.text,
        "recall": atom.record.recall,
        "questions": len(atom.questions),
        "source": place.source if place else None,
        "start": place.start if place else None,
        "end": place.end if place else None,
    }


def _lines(atom: Atom, facts: dict[str, Any]) -> list[tuple[str, str]]:
    record = atom.record
    lines = [
        ("atom", atom.id),
        ("type", atom.type),
        ("title", atom.title),
        ("headings", " / ".join(atom.headings)),
        ("text", atom.text),
        *(("source", _place(place)) for place in atom.provenances),
        ("labels", ", ".join(atom.labels)),
        ("mounted", atom.mount if atom.mount != "routed" else ""),
        ("adapter", f"rank {atom.rank}, alpha {atom.alpha:g}, {facts['size_bytes']:,} bytes as {facts['dtype']}"),
        ("training", f"recall {record.recall:.2f}, loss {record.loss:.4f}, {record.steps} steps"),
        ("weights", atom.weights_digest),
    ]
    failed = set(record.failed_questions)
    for question in atom.questions:
        mark = " (not learnt)" if question.text in failed else ""
        lines.append(("question", f"{question.text} -> {question.answer} [{question.kind}]{mark}"))
    return [(name, value) for name, value in lines if value]


def _place(place: Provenance) -> str:
    page = f" (page {place.page})" if place.page is not None else ""
    tenant = f" (tenant {place.tenant})" if place.tenant is not None else ""
    return f"{place.source}:{place.start}-{place.end}{page}{tenant}"


def _source(atom: Atom) -> str:
    return _place(atom.provenances[0]) if atom.provenances else "-"
