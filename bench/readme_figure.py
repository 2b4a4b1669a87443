"""Draws the table under "Measured" in README.md, so that picture and table say the same.

    python bench/readme_figure.py [--readme README.md] [--out docs/answers.svg]

Needs matplotlib (the extra `bench`).
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

from beside import FOLDER, beside

plots = beside("qa_plots")
ROW = re.compile(
    r"\| (?P<mode>[^|]+?) \| (?:\*\*)?(?P<share>\d+) %(?:\*\*)?(?: \((?P<low>\d+)[-–](?P<high>\d+)\))? "
    r"\| [\d.]+ \| (?:\*\*)?(?P<tokens>\d+)(?:\*\*)? \|"
)


class Mode(NamedTuple):
    """A row: its name without remarks, percent that contain the answer with their interval, prompt tokens."""

    name: str
    ours: bool
    share: int
    low: int
    high: int
    tokens: int


def modes(readme: str) -> list[Mode]:
    """The rows of the table that have an answer's share and a number of tokens."""
    found = []
    for match in ROW.finditer(readme):
        share = int(match["share"])
        name = re.sub(r"\s*\([^)]*\)", "", match["mode"]).replace("`", "")
        interval = int(match["low"] or share), int(match["high"] or share)
        ours = "atoms" in name.lower()
        found.append(Mode(name.replace("**", ""), ours, share, *interval, int(match["tokens"])))
    return found


def draw(rows: list[Mode], path: Path) -> None:
    """Two panels: answers that contain the gold answer, with 95 % intervals, and tokens of the prompt."""
    import matplotlib

    matplotlib.use("Agg")
    matplotlib.rcParams.update({"svg.hashsalt": "atomlora", "font.size": 10, "text.color": plots.INK})
    from matplotlib import pyplot

    rows = rows[::-1]
    places, colours = range(len(rows)), [plots.OURS if row.ours else plots.THEIRS for row in rows]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 0.5 * len(rows) + 1), sharey=True, width_ratios=[2, 1])
    left.barh(places, [row.share for row in rows], 0.6, color=colours)
    for place, row in zip(places, rows, strict=True):
        if row.low < row.high:
            error = [[row.share - row.low], [row.high - row.share]]
            left.errorbar(row.share, place, xerr=error, color=plots.INK, capsize=3)
        left.text(row.high + 2, place, f"{row.share} %", va="center")
        right.text(row.tokens + 6, place, str(row.tokens), va="center")
    right.barh(places, [row.tokens for row in rows], 0.6, color=colours)
    left.set(xlim=(0, 108), title="answers that contain the gold answer, %", yticks=list(places))
    left.set_yticklabels([row.name for row in rows])
    right.set(xlim=(0, 1.15 * max(row.tokens for row in rows)), title="prompt tokens")
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(length=0)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None}, facecolor="white")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--readme", type=Path, default=FOLDER.parent / "README.md")
    parser.add_argument("--out", type=Path, default=FOLDER.parent / "docs" / "answers.svg")
    arguments = parser.parse_args()
    rows = modes(arguments.readme.read_text(encoding="utf-8"))
    if not rows:
        parser.error(f"{arguments.readme}: no row of a table reads | mode | N % (A-B) | F1 | tokens |")
    draw(rows, arguments.out)


if __name__ == "__main__":
    main()
