"""A check as one HTML page: no script, no network, pictures inline."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from atomlora.atom import Atom
from atomlora.interference.check import CheckedPair, CheckReport
from atomlora.interference.drawing import Cell, Dot, atom_map, curves, heat_map
from atomlora.interference.predict import Predictor
from atomlora.interference.stacking import StackedRecall

BLOCK = 14  # atoms of the heat map
SHOWN = 12  # pairs side by side
LABEL = 28  # characters of an atom's text that name it in the heat map
LINKS = 60
NAMES = {
    ("nearest", "gates"): "routed, at gates",
    ("random", "gates"): "random, at gates",
    ("nearest", "unit"): "nearest, at weight 1",
    ("random", "unit"): "random, at weight 1",
}


def report_html(report: CheckReport, atoms: Sequence[Atom], keys: tuple[np.ndarray, np.ndarray]) -> str:
    """The page. `keys` are the store's embeddings (n, d) and positions (n,) in `atoms`."""
    number = {atom.id: at for at, atom in enumerate(atoms)}
    sections = [
        _figures(report),
        _section("Recall by number of stacked atoms", _curves(report), _CURVES_NOTE[report.asked]),
        _section("The worst block", _heat(report.pairs, atoms, number), _HEAT_NOTE),
        _section("Where the atoms lie", _map(report.pairs, atoms, number, *keys), _MAP_NOTE),
        _section("The worst pairs, side by side", _pairs(report.pairs, atoms, number), ""),
    ]
    title = f"{escape(report.store)}: how its atoms stack"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1><p class=quiet>version {report.version[:12]}, {report.atoms} atoms, "
        f"{len(report.pairs)} pairs of neighbours</p>{''.join(sections)}</main></body></html>\n"
    )


def _figures(report: CheckReport) -> str:
    off = report.off_topic
    harmful = sum(pair.damage > 10 for pair in report.pairs)
    facts = [
        (f"{harmful} of {len(report.pairs)}", "pairs of neighbours expected to cost more than 10 points at weight 1"),
        *((f"{r.recall:.0%}", f"recalled at k = {r.k}, as routed, at gates") for r in _served(report)),
        (f"{off.kl:.3f}", "nats per token off topic, one wrong atom at weight 1"),
        (f"{off.unchanged:.0%}", "of general answers unchanged by a wrong atom at weight 1"),
        (f"{off.routed_unchanged:.0%}", "of general answers unchanged as routed, with abstaining on"),
    ]
    return "<dl>" + "".join(f"<div><dt>{escape(a)}</dt><dd>{escape(b)}</dd></div>" for a, b in facts) + "</dl>"


def _served(report: CheckReport) -> list[StackedRecall]:
    return [r for r in report.stacked_recall if (r.others, r.weights) == ("nearest", "gates") and r.k in (1, 4)]


def _curves(report: CheckReport) -> str:
    series = {
        name: [(row.k, row.recall) for row in report.stacked_recall if (row.others, row.weights) == kind]
        for kind, name in NAMES.items()
    }
    return curves({name: points for name, points in series.items() if points})


def _heat(pairs: Sequence[CheckedPair], atoms: Sequence[Atom], number: dict[str, int]) -> str:
    chosen = list(dict.fromkeys(one for pair in pairs for one in (pair.a, pair.b)))[:BLOCK]
    measured = {(pair.a, pair.b): (pair.peak, pair.half_peak) for pair in pairs}
    predictor = Predictor(measured)
    cells = {
        (row, column): Cell(predictor.stack((a, b), (1.0, 1.0))[0].damage, (a, b) in measured)
        for row, a in enumerate(chosen)
        for column, b in enumerate(chosen)
        if a != b
    }
    told = [atoms[number[one]] for one in chosen]
    return heat_map([_short(atom.text) for atom in told], [_told(atom) for atom in told], cells)


def _map(
    pairs: Sequence[CheckedPair],
    atoms: Sequence[Atom],
    number: dict[str, int],
    embeddings: np.ndarray,
    positions: np.ndarray,
) -> str:
    places = projected(embeddings, positions, len(atoms))
    sources = {name: at for at, name in enumerate(dict.fromkeys(_source(atom) for atom in atoms))}
    harm: dict[str, float] = {}
    for pair in pairs:
        for one in (pair.a, pair.b):
            harm[one] = max(harm.get(one, 0.0), pair.damage)
    dots = [
        Dot(float(x), float(y), harm.get(atom.id, 0.0), sources[_source(atom)], _told(atom))
        for atom, (x, y) in zip(atoms, places, strict=True)
    ]
    return atom_map(dots, [(number[pair.a], number[pair.b], pair.damage) for pair in pairs[:LINKS] if pair.damage > 1])


def projected(embeddings: np.ndarray, positions: np.ndarray, atoms: int) -> np.ndarray:
    """Each atom's mean key on the two principal axes of them all, scaled into [0, 1]: (atoms, 2)."""
    means = np.zeros((atoms, embeddings.shape[1] if embeddings.size else 2))
    np.add.at(means, positions, embeddings)
    means /= np.maximum(np.bincount(positions, minlength=atoms), 1)[:, None]
    means -= means.mean(0)
    _, _, axes = np.linalg.svd(means, full_matrices=False)
    flat = means @ axes[:2].T
    if flat.shape[1] < 2:
        flat = np.pad(flat, ((0, 0), (0, 2 - flat.shape[1])))
    spread = flat.max(0) - flat.min(0)
    scaled: np.ndarray = (flat - flat.min(0)) / np.where(spread > 0, spread, 1.0)
    return scaled


def _pairs(pairs: Sequence[CheckedPair], atoms: Sequence[Atom], number: dict[str, int]) -> str:
    return "".join(
        f"<article><p class=quiet>{pair.damage:.0f} points of recall expected lost; delta NLL {pair.delta_nll:.3f}, "
        f"KL {pair.kl:.3f} nats a token, overlap {pair.overlap:.2f}, {pair.flips:.0%} of the tokens turn</p>"
        f"<div class=two>{_card('disturbed', atoms[number[pair.a]])}{_card('beside it', atoms[number[pair.b]])}</div>"
        "</article>"
        for pair in pairs[:SHOWN]
    )


def _card(role: str, atom: Atom) -> str:
    place = atom.provenances[0] if atom.provenances else None
    source = f"{place.source}:{place.start}-{place.end}" if place else "(no document)"
    return (
        f"<section><h3>{role} <code>{atom.id[:12]}</code></h3><p>{escape(atom.text)}</p>"
        f"<p class=quiet>{escape(atom.title)} · {escape(source)}</p></section>"
    )


def _section(title: str, body: str, note: str) -> str:
    told = f"<p class=quiet>{escape(note)}</p>" if note else ""
    return f"<h2>{escape(title)}</h2>{told}<div class=wide>{body}</div>"


def _source(atom: Atom) -> str:
    return atom.provenances[0].source if atom.provenances else ""


def _short(text: str) -> str:
    return text if len(text) <= LABEL else text[: LABEL - 1].rstrip() + "…"


def _told(atom: Atom) -> str:
    return f"{_source(atom)}: {atom.text}"


_CURVES = "questions whose whole statement is greedy under teacher forcing, the atom itself at weight 1."
_CURVES_NOTE = {"own": f"Share of training {_CURVES}", "golden": f"Share of people's {_CURVES}"}
_HEAT_NOTE = (
    "Points of recall that the row's atom is expected to lose beside the column's, both at weight 1. "
    "Dashed: the pair was not measured."
)
_MAP_NOTE = (
    "Mean keys on their two principal axes; colours are files, lines join pairs that disturb each other, large dots "
    "take part in much harm."
)
_STYLE = """
:root { --page:#fff; --text:#1c2430; --quiet:#5c6673; --line:#d8dde4; --card:#f5f7f9; --harm:#c2410c;
 --series-0:#0f766e; --series-1:#2563eb; --series-2:#c2410c; --series-3:#9333ea;
 --group-0:#0f766e; --group-1:#2563eb; --group-2:#b45309; --group-3:#9333ea; --group-4:#be185d; --group-5:#4d7c0f;
 --group-6:#0e7490; --group-7:#64748b; }
@media (prefers-color-scheme: dark) { :root { --page:#12161c; --text:#e4e8ee; --quiet:#98a3b1; --line:#303842;
 --card:#1a2029; --harm:#f97316; --series-0:#2dd4bf; --series-1:#60a5fa; --series-2:#fb923c; --series-3:#c084fc;
 --group-0:#2dd4bf; --group-1:#60a5fa; --group-2:#fbbf24; --group-3:#c084fc; --group-4:#f472b6; --group-5:#a3e635;
 --group-6:#22d3ee; --group-7:#94a3b8; } }
body { margin:0; background:var(--page); color:var(--text); font:15px/1.5 system-ui, sans-serif; }
main { max-width:900px; margin:0 auto; padding:32px 20px 64px; }
h1 { font-size:22px; margin:0; overflow-wrap:anywhere; } h2 { font-size:17px; margin:40px 0 4px; }
h3 { font-size:12px; margin:0 0 6px; font-weight:600; color:var(--quiet); }
.quiet { color:var(--quiet); font-size:13px; margin:4px 0 12px; } .wide { overflow-x:auto; } svg { max-width:none; }
dl { display:grid; grid-template-columns:repeat(auto-fit,minmax(250px,1fr)); gap:12px; margin:24px 0 0; }
dl div { background:var(--card); border-radius:8px; padding:12px 14px; } dt { font-size:22px; font-weight:600; }
dd { margin:2px 0 0; color:var(--quiet); font-size:12px; line-height:1.35; }
article { border-top:1px solid var(--line); padding:12px 0; }
.two { display:grid; grid-template-columns:1fr 1fr; gap:12px; }
.two section { background:var(--card); border-radius:8px; padding:12px 14px; min-width:0; overflow-wrap:anywhere; }
.two p { margin:0 0 6px; } @media (max-width:640px) { .two { grid-template-columns:1fr; } }
"""
