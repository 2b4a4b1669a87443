"""Figures of bench/router.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot(result: dict[str, Any], folder: Path) -> None:
    """Draws what was measured: recall by set and system, and latency and recall by number of keys."""
    folder.mkdir(parents=True, exist_ok=True)
    if result.get("quality"):
        plot_quality(result["quality"], folder / "router-quality.png")
    if result.get("scale"):
        plot_scale([row for row in result["scale"] if "skipped" not in row], folder / "router-scale.png")


def plot_quality(quality: list[dict[str, Any]], path: Path) -> None:
    """One panel a set: passage@1 and the F1 of refusing, system by system."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(quality), figsize=(4.2 * len(quality), 4), squeeze=False)
    for axis, one in zip(axes[0], quality, strict=True):
        rows = list(reversed(one["systems"]))
        places = range(len(rows))
        axis.barh([place + 0.2 for place in places], [row["passage_at_1"] for row in rows], 0.38, label="passage@1")
        refused = [row.get("refusing", {}).get("f1", 0.0) for row in rows]
        axis.barh([place - 0.2 for place in places], refused, 0.38, label="refusing, F1")
        axis.set(title=f"{one['set']}: {one['questions']} questions", xlim=(0, 1), yticks=list(places))
        axis.set_yticklabels([row["system"] for row in rows])
    axes[0][0].legend(loc="lower left")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def plot_scale(rows: list[dict[str, Any]], path: Path) -> None:
    """Median latency and recall@8 by number of keys, kind by kind."""
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 4))
    for kind in dict.fromkeys(row["kind"] for row in rows):
        some = [row for row in rows if row["kind"] == kind]
        counts = [row["keys"] for row in some]
        left.plot(counts, [row["p50_ms"] for row in some], marker="o", label=kind)
        right.plot(counts, [row["recall_at_8"] for row in some], marker="o", label=kind)
    left.set(xscale="log", yscale="log", xlabel="keys", ylabel="p50 of a search, ms")
    right.set(xscale="log", xlabel="keys", ylabel="recall@8 of exact search")
    left.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
