"""Rows of bench/qa.py: kept as they come, so that a run that was cut off goes on; by kind of question, and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from atomlora.evaluate import ModeScores, ScoredAnswer, mean_scores

RESAMPLES = 2000
Row = list[ScoredAnswer]


class Rows:
    """The answers of each row of one set, in a jsonl file, by a key of all that decides them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
        self._known: dict[str, Row] = {}
        for line in lines:
            if line.endswith("}"):  # not the half of a line that a cut leaves
                kept = json.loads(line)
                self._known[kept["key"]] = [ScoredAnswer.model_validate(one) for one in kept["answers"]]

    def get(self, key: str) -> Row | None:
        """The row's answers, if they were all given."""
        return self._known.get(key)

    def keep(self, key: str, row: Row) -> Row:
        """Write a whole row down."""
        self._known[key] = row
        line = json.dumps({"key": key, "answers": [one.model_dump(mode="json") for one in row]})
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        return row


def by_kind(rows: Mapping[str, Row], kinds: Mapping[str, str]) -> dict[str, dict[str, ModeScores]]:
    """{kind of question: {row: its scores on these}}."""
    return {
        kind: {name: mean_scores([one for one in row if kinds.get(one.question) == kind]) for name, row in rows.items()}
        for kind in dict.fromkeys(kinds.values())
        if any(kinds.get(one.question) == kind for row in rows.values() for one in row)
    }


def gains(rows: Mapping[str, Row], of: str = "atoms") -> dict[str, dict[str, tuple[float, float, float]]]:
    """What row `of` has over each other row that was asked the same questions, in `contains` and in `f1`: the mean
    difference and its 95 % interval (bootstrap over questions, which both rows share)."""
    if of not in rows:
        return {}
    ours = {one.question: one for one in rows[of]}
    found = {}
    for name, row in rows.items():
        shared = [(ours[one.question], one) for one in row if one.question in ours]
        if name != of and shared:
            found[name] = {
                "contains": difference([mine.contains - other.contains for mine, other in shared]),
                "f1": difference([mine.f1 - other.f1 for mine, other in shared]),
            }
    return found


def difference(values: Sequence[float]) -> tuple[float, float, float]:
    """The mean of paired differences and its 95 % percentile bootstrap interval."""
    paired = np.array(values)
    drawn = paired[np.random.default_rng(0).integers(0, len(paired), (RESAMPLES, len(paired)))].mean(axis=1)
    low, high = np.percentile(drawn, [2.5, 97.5])
    return round(float(paired.mean()), 4), round(float(low), 4), round(float(high), 4)


def shown(name: str, row: Mapping[str, Any]) -> str:
    """A row as a line of a table."""
    interval = "{:.3f}-{:.3f}".format(*row["contains_interval"])
    return (
        f"  {name:>14} {row['n']:5} {row['contains']:9.3f} {interval:>15} {row['f1']:7.3f} {row['em']:7.3f} "
        f"{row['abstained']:10.3f} {row['prompt_tokens']:8.1f} {row['latency_ms']:11.1f}"
    )


HEAD = "  {:>14} {:>5} {:>9} {:>15} {:>7} {:>7} {:>10} {:>8} {:>11}".format(
    "mode", "n", "contains", "95 %", "f1", "em", "abstained", "tokens", "latency ms"
)
