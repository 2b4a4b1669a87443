"""Pictures of a check as inline SVG: a heat map, curves by k, a map of the atoms. Colours are the page's variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import NamedTuple

FONT = 'font-size="11" fill="var(--text)"'


class Cell(NamedTuple):
    """A square of the heat map: expected points lost, and whether the pair was measured."""

    points: float
    measured: bool


class Dot(NamedTuple):
    """An atom on the map: place in [0, 1] x [0, 1], how much it takes part in harm (points), group and tooltip."""

    x: float
    y: float
    points: float
    group: int
    title: str


def heat_map(names: Sequence[str], titles: Sequence[str], cells: Mapping[tuple[int, int], Cell]) -> str:
    """Rows are the atoms that suffer, columns those beside them; `titles` are the tooltips of the atoms."""
    size, left, top = 30, 190, 160
    width, height = left + size * len(names) + 90, top + size * len(names) + 8
    parts = [
        f'<text x="{left - 6}" y="{top + size * at + 19}" text-anchor="end" {FONT}>{escape(name)}'
        f"<title>{escape(titles[at])}</title></text>"
        f'<text transform="translate({left + size * at + 19} {top - 6}) rotate(-60)" {FONT}>{escape(name)}'
        f"<title>{escape(titles[at])}</title></text>"
        for at, name in enumerate(names)
    ]
    for (row, column), cell in cells.items():
        x, y = left + size * column, top + size * row
        share = min(1.0, cell.points / 100)
        kind = "measured" if cell.measured else "estimated: the pair was not measured"
        title = f"{names[column]} beside {names[row]}: {cell.points:.0f} points expected lost ({kind})"
        frame = "" if cell.measured else ' stroke="var(--text)" stroke-opacity="0.6" stroke-dasharray="2 3"'
        parts.append(
            f'<rect x="{x + 1}" y="{y + 1}" width="{size - 2}" height="{size - 2}" rx="3" fill="var(--harm)" '
            f'fill-opacity="{0.04 + 0.92 * share:.3f}"{frame}><title>{escape(title)}</title></rect>'
        )
        if cell.points >= 1:
            ink = "#fff" if share > 0.55 else "var(--text)"
            parts.append(
                f'<text x="{x + size / 2}" y="{y + 19}" text-anchor="middle" font-size="10" fill="{ink}" '
                f'pointer-events="none">{cell.points:.0f}</text>'
            )
    return _svg(width, height, parts, "Heat map: expected loss of recall of each row's atom beside each column's")


def curves(series: Mapping[str, Sequence[tuple[int, float]]]) -> str:
    """Recall (0 to 1) over k for each named series, k on a scale of doublings."""
    width, height, left, right, top, bottom = 620, 290, 44, 170, 16, 54
    ks = sorted({k for points in series.values() for k, _ in points})
    step = (width - left - right) / max(len(ks) - 1, 1)

    def place(k: int, recall: float) -> tuple[float, float]:
        return left + step * ks.index(k), top + (1 - recall) * (height - top - bottom)

    parts = []
    for tenth in (0, 25, 50, 75, 100):
        y = place(ks[0], tenth / 100)[1] if ks else top
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{y}" y2="{y}" stroke="var(--line)"/>')
        parts.append(f'<text x="{left - 6}" y="{y + 4}" text-anchor="end" {FONT}>{tenth} %</text>')
    parts += [f'<text x="{place(k, 0)[0]}" y="{height - 12}" text-anchor="middle" {FONT}>k = {k}</text>' for k in ks]
    ends: list[float] = []
    for number, (name, points) in enumerate(series.items()):
        placed = [place(k, recall) for k, recall in points]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        colour = f"var(--series-{number % 4})"
        parts.append(f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (k, recall) in zip(placed, points, strict=True):
            title = f"<title>{escape(name)}, k = {k}: {recall:.1%}</title>"
            parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}">{title}</circle>')
        y = _free(placed[-1][1], ends)
        parts.append(
            f'<text x="{width - right + 10}" y="{y + 4:.1f}" font-size="11" fill="{colour}">{escape(name)}</text>'
        )
    return _svg(width, height, parts, "Recall by number of stacked atoms")


def atom_map(dots: Sequence[Dot], links: Sequence[tuple[int, int, float]]) -> str:
    """Atoms where their keys lie; `links` join atoms (by number) that disturb each other, with the points lost."""
    width, height, margin = 640, 420, 16

    def place(dot: Dot) -> tuple[float, float]:
        return margin + dot.x * (width - 2 * margin), margin + dot.y * (height - 2 * margin)

    parts = []
    for first, second, points in links:
        (x1, y1), (x2, y2) = place(dots[first]), place(dots[second])
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="var(--harm)" '
            f'stroke-opacity="{min(1.0, 0.15 + points / 120):.2f}"/>'
        )
    for dot in dots:
        x, y = place(dot)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{4 + dot.points / 25:.1f}" fill="var(--group-{dot.group % 8})" '
            f'stroke="var(--page)"><title>{escape(dot.title)}</title></circle>'
        )
    return _svg(width, height, parts, "Map of the atoms by their keys")


def _free(y: float, taken: list[float]) -> float:
    """The nearest height from `y` on at which a label stands on no other."""
    while any(abs(y - other) < 13 for other in taken):
        y += 13 - min(abs(y - other) for other in taken if abs(y - other) < 13)
    taken.append(y)
    return y


def _svg(width: float, height: float, parts: Sequence[str], label: str) -> str:
    return (
        f'<svg viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" role="img" aria-label="{escape(label)}" '
        f'font-family="inherit">{"".join(parts)}</svg>'
    )
