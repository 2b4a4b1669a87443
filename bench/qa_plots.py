"""Figures of bench/qa.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

OURS, THEIRS, INK = "#1b6ca8", "#b9c2cc", "#222222"
ATOMS = ("atoms", "both", "auto")


def plot(result: dict[str, Any], folder: Path) -> None:
    """A picture a set, qa-SET.png: the share of answers that contain the gold answer with its 95 % interval, F1, and
    tokens of the prompt, mode by mode."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    for one in result["sets"]:
        rows = list(reversed(one["modes"].items()))
        places = list(range(len(rows)))
        colours = [OURS if mode.split("+")[0] in ATOMS else THEIRS for mode, _ in rows]
        figure, axes = pyplot.subplots(1, 3, figsize=(11, 0.4 * len(rows) + 1.4), sharey=True)
        for axis, name in zip(axes, ("contains", "f1", "prompt_tokens"), strict=True):
            axis.barh(places, [row[name] for _, row in rows], 0.6, color=colours)
            axis.set(title=name.replace("_", " "), yticks=places)
        for place, (_, row) in zip(places, rows, strict=True):
            low, high = row["contains_interval"]
            error = [[row["contains"] - low], [high - row["contains"]]]
            axes[0].errorbar(row["contains"], place, xerr=error, color=INK, capsize=3)
        axes[0].set_yticklabels([mode for mode, _ in rows])
        for axis in axes[:2]:
            axis.set_xlim(0, 1.02)
        figure.suptitle(f"{one['set']}: {rows[0][1]['n']} questions, {one['compile']['atoms_total']} atoms")
        figure.tight_layout()
        figure.savefig(folder / f"qa-{one['set']}.png", dpi=120)
        pyplot.close(figure)
