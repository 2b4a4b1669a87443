"""Row oracle of bench/qa.py: the same documents, but each atom learns the very questions that are then asked (where one
atom can be told to answer them), and no others. What generated questions are worth is their recall against this."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from atomlora import AtomLoRA, compile_corpus
from atomlora.evaluate import ScoredAnswer, evaluate
from atomlora.golden import GoldenQuestion
from atomlora.settings import CompileSettings
from atomlora.store import Store

NAME = "oracle"


def compile_oracle(documents: Path, golden: Path, store: Path, **how: Any) -> dict[str, Any]:
    """Compile the store and say what that took, as of the other rivals (`cpu_s` and `wall_s` of this run), and the
    run's report."""
    settings, began = CompileSettings(question_writer="none"), time.process_time()
    report = compile_corpus([documents], store, settings, questions=golden, **how)
    with Store.open(store) as made:
        size = sum(entry.size for entry in made.entries())
    return {
        "adapters": report.atoms_total,
        "cpu_s": time.process_time() - began,
        "wall_s": report.seconds,
        "size_bytes": size,
        "compile": report.model_dump(mode="json", exclude={"store", "failed", "skipped", "conflicts"}),
    }


def ask_oracle(
    store: Path, golden: list[GoldenQuestion], asking: dict[str, Any], opening: dict[str, Any]
) -> list[ScoredAnswer]:
    """The golden questions in mode atoms; `asking` as for `evaluate`."""
    row: list[ScoredAnswer] = []
    with AtomLoRA.open(store, reader="none", **opening) as model:
        evaluate(model, golden, ["atoms"], on_answer=row.append, **asking)
    return row
