"""Pictures of what `bench/interference.py` found."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def plot(result: dict[str, Any], folder: Path) -> None:
    """recall.png (a panel for each kind of others and run) and off_topic.png, in `folder`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    stacked = [row for row in result["recall"] if row["others"] != "-"]
    panels = list(dict.fromkeys((row["others"], row["run"]) for row in stacked))
    figure, axes = pyplot.subplots(1, len(panels), figsize=(4.5 * len(panels), 4), sharey=True, squeeze=False)
    for axis, (others, run_) in zip(axes[0], panels, strict=True):
        mine = [row for row in stacked if (row["others"], row["run"]) == (others, run_)]
        for operator in dict.fromkeys(row["operator"] for row in mine):
            rows = [row for row in mine if row["operator"] == operator]
            axis.plot([row["k"] for row in rows], [row["recall"] for row in rows], marker="o", label=operator)
        axis.set(title=f"{others}, {run_} run", xlabel="atoms mounted", xscale="log", ylim=(-0.02, 1.02))
        axis.set_xticks(sorted({row["k"] for row in mine}), [str(k) for k in sorted({row["k"] for row in mine})])
    axes[0][0].set_ylabel("recall")
    axes[0][-1].legend(fontsize=8)
    figure.savefig(folder / "recall.png", dpi=140, bbox_inches="tight")
    figure, axis = pyplot.subplots(figsize=(5, 4))
    for operator in dict.fromkeys(row["operator"] for row in result["off_topic"]):
        rows = [row for row in result["off_topic"] if row["operator"] == operator]
        axis.plot([row["k"] for row in rows], [row["unchanged"] for row in rows], marker="o", label=operator)
    axis.set(xlabel="atoms mounted", ylabel="general answers unchanged", ylim=(-0.02, 1.02))
    axis.legend(fontsize=8)
    figure.savefig(folder / "off_topic.png", dpi=140, bbox_inches="tight")
