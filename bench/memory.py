"""Peak memory of compiling many atoms.

    python bench/memory.py --json [--atoms 1000] [--steps 2] [--base NAME|DIR]

Every atom goes the whole way (read, split, questions by rule, trunk, training, store, router), but for few steps: the
number of steps costs time and no memory. Recall is therefore nothing to look at. `peak_mb` is the process's largest
resident set in MiB, `loaded_mb` what it was when the base and the pool of neighbours were ready.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import beside  # noqa: F401 - takes this folder off the import path

from atomlora import compile_corpus
from atomlora.bases import EMBEDDED_BASE
from atomlora.compiler.progress import CompileProgress
from atomlora.settings import CompileSettings, TrainSettings

PLACES = ("harbour", "station", "museum", "orchard", "library", "foundry", "chapel", "market", "quarry", "theatre")
METALS = ("tin", "iron", "brass", "silver", "copper", "nickel", "bronze", "steel", "lead", "zinc")


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--base", default=EMBEDDED_BASE)
    args = parser.parse_args()
    train = TrainSettings(max_steps=args.steps)
    loaded: list[float] = []

    def watch(progress: CompileProgress) -> None:
        if progress.stage == "train" and not loaded:
            loaded.append(peak_mb())

    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        lines = []
        for number in range(args.atoms):
            place, metal = PLACES[number % 10], METALS[number // 10 % 10]
            text = f"The bell of {place} {number} weighs {number * 7 + 11} pounds and is cast in {metal}."
            lines.append(json.dumps({"id": f"bell-{number}", "title": f"Bells of the {place}", "text": text}))
        source = Path(folder) / "bells.jsonl"
        source.write_text("\n".join(lines), encoding="utf-8")
        settings = CompileSettings(train=train, question_writer="none")
        report = compile_corpus([source], Path(folder) / "store", settings, base=args.base, on_progress=watch)
    row = {
        "atoms": report.atoms_total,
        "peak_mb": round(peak_mb()),
        "loaded_mb": round(loaded[0]),
        "seconds": round(time.perf_counter() - began, 1),
    }
    print(json.dumps(row) if args.json else "\n".join(f"{name}: {value}" for name, value in row.items()))


if __name__ == "__main__":
    main()
