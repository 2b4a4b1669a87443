"""What training an atom costs: many at once, one at a time, and a plain PEFT loop per atom, interleaved.

    python bench/compile.py --json [--atoms N] [--base NAME|DIR] [--threads 1]

The same atoms and questions for each: sentences of the sample corpus, five plain questions each, the sentence being
the answer. A round runs all three sides (batched over all atoms; one adapter at a time on two atoms and PEFT on one,
of typical length), and `ratio` is the median over rounds of side / batched, so that a noisy machine burdens all alike.
Batched and single are what compiling does with default settings: frozen neighbours and silence included; the pool
itself and the silence bank (made once) are reported apart. PEFT is LoRA on all linear layers (r 8, alpha 16, AdamW),
one batch of the atom's five questions, without composition training, which favours it; so does stopping on the logits
of the training forward itself. It takes the faster of two learning rates, found on the first atom. An atom is done on
any side when greedy decoding under teacher forcing gives all its answers under the full head (PEFT looks every five
steps). Seconds are CPU time of the process; wall time stands beside it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from beside import beside

from atomlora.atom import Target, digest_json
from atomlora.bases import EMBEDDED_BASE, Base, load_base
from atomlora.compiler.drafts import Draft, drafts_from
from atomlora.corpora import SkippedFile, read_corpus, sample_path, split_document
from atomlora.prompts import common_prefix
from atomlora.questions.types import Question
from atomlora.settings import CompileSettings
from atomlora.spread import evenly
from atomlora.training.adapters import FrozenPool
from atomlora.training.pool import load_or_train_pool, neighbours_and_bank
from atomlora.training.shape import resolve_targets
from atomlora.training.silence import SilenceBank
from atomlora.training.trainer import AtomJob, Trainer
from atomlora.training.trunk import Example, Trunk
from atomlora.training.whitening import Whitener
from atomlora.wordings import training_wordings

plain = beside("peft_loop")
Cost, peft_loop, tuned_peft = plain.Cost, plain.peft_loop, plain.tuned_peft

REFERENCE_GFLOPS = 57.0
PARTS = {"_admit": "trunk", "_learn": "answer_steps", "_silence": "silence", "_exact": "exact_checks"}


@dataclass(frozen=True)
class Workplace:
    """What every trainer of ours shares: base, frozen trunk, neighbours and silence bank."""

    base: Base
    targets: tuple[Target, ...]
    settings: CompileSettings
    trunk: Trunk
    pool: FrozenPool | None
    bank: SilenceBank | None
    whitening: tuple[Whitener, ...] | None

    def trainer(self, slots: int) -> Trainer:
        adapter, train = self.settings.adapter, self.settings.train
        place = self.base.model, self.trunk, self.targets
        return Trainer(*place, adapter, train, slots, self.bank, self.pool, self.whitening)


def gemm_gflops(repeats: int = 25) -> float:
    """Median rate of float32 (1024, 576) @ (576, 1536), by CPU time."""
    a, b = torch.randn(1024, 576), torch.randn(576, 1536)
    rates = []
    for _ in range(repeats):
        start = time.process_time()
        torch.mm(a, b)
        rates.append(2 * 1024 * 576 * 1536 / max(time.process_time() - start, 1e-9) / 1e9)
    return statistics.median(rates)


def plain_questions(draft: Draft) -> tuple[Question, ...]:
    """Five questions that need no model: from title, heading and words of the text."""
    place = draft.headings[-1] if draft.headings else draft.title
    words = draft.text.split()
    long = sorted(dict.fromkeys(re.findall(r"\w{4,}", draft.text)), key=len, reverse=True)
    asked = (
        f"What do you know about {' '.join(words[:4]).rstrip('.,:;')}?",
        f"What does “{draft.title}” say about {' and '.join(long[:2])}?",
        f"Tell me about {', '.join(long[2:5]) or place} in “{place}”.",
        f"Which statement begins with “{' '.join(words[:3])}”?",
        f"What should I remember of {place} that ends in “{' '.join(words[-3:]).rstrip('.')}”?",
    )
    return tuple(Question(text=text, answer=draft.text, kind="written") for text in asked)


def chosen_drafts(count: int) -> list[Draft]:
    """`count` sentence-sized atoms of the sample corpus, spread evenly over it."""
    found = read_corpus([sample_path("kestrin") / "documents"])
    passages = [p for d in found if not isinstance(d, SkippedFile) for p in split_document(d)]
    drafts = [d for d in drafts_from(passages) if 8 <= len(d.text.split()) <= 40 and d.type != "code"]
    if count > len(drafts):
        raise SystemExit(f"--atoms {count}: the sample corpus has {len(drafts)} sentences of that size")
    return [replace(draft, questions=plain_questions(draft)) for draft in evenly(drafts, count)]


def job_of(base: Base, draft: Draft) -> AtomJob:
    """The draft's prompts and answers as compiling makes them."""
    examples = tuple(Example.asked(base.tokenizer, *wording) for wording in training_wordings(draft))
    return AtomJob(digest_json([draft.title, draft.text]), examples)


def by_typicality(jobs: list[AtomJob]) -> list[AtomJob]:
    """Atoms whose answers are nearest to the mean length first: few can then stand for all."""
    lengths = [statistics.mean(len(e.answer) for e in job.examples) for job in jobs]
    middle = statistics.mean(lengths)
    return [jobs[i] for i in sorted(range(len(jobs)), key=lambda i: abs(lengths[i] - middle))]


def prepared(base: Base, settings: CompileSettings) -> tuple[Workplace, dict[str, float]]:
    """Trunk, pool (loaded or trained) and silence bank, with the CPU seconds of each."""
    targets = resolve_targets(base.model, settings.adapter)
    seconds = {}
    start = time.process_time()
    prefix = common_prefix(base.tokenizer)
    trunk = Trunk(base.model, min(t.layer for t in targets), prefix, base.tokenizer.pad_token_id)
    records = load_or_train_pool(base, trunk, targets, settings, lambda _done, _all: None)
    seconds["pool_cpu_seconds"] = round(time.process_time() - start, 2)
    start = time.process_time()
    neighbours, bank = neighbours_and_bank(base, trunk, targets, records, settings)
    seconds["silence_bank_cpu_seconds"] = round(time.process_time() - start, 2)
    return Workplace(base, targets, settings, trunk, neighbours, bank, records.whitening), seconds


def ours(place: Workplace, jobs: list[AtomJob], slots: int) -> Cost:
    """Train `jobs` with at most `slots` at a time; `parts` splits the CPU seconds by method."""
    cost = Cost(len(jobs))
    parts: dict[str, float] = defaultdict(float)

    def timed(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any) -> Any:
            start = time.process_time()
            result = method(*args)
            parts[name] += time.process_time() - start
            return result

        return call

    with cost.clock():
        trainer: Any = place.trainer(slots)
        for method, name in PARTS.items():
            setattr(trainer, method, timed(name, getattr(trainer, method)))
        trainer.adapters.step = timed("optimiser", trainer.adapters.step)
        for atom in trainer.run(jobs):
            cost.steps.append(atom.steps)
            cost.right += sum(atom.passed)
            cost.asked += len(atom.passed)
    cost.parts = {**parts, "rest": cost.cpu - sum(parts.values())}
    return cost


def row(what: str, costs: list[Cost], against: list[Cost]) -> dict[str, Any]:
    """Medians over rounds; the ratio is to `against` of the same round."""
    each = [c.cpu / c.atoms for c in costs]
    ratios = [e / (b.cpu / b.atoms) for e, b in zip(each, against, strict=True)]
    steps = [s for c in costs for s in c.steps]
    scaled = [e * c.gflops / REFERENCE_GFLOPS for e, c in zip(each, costs, strict=True)]
    return {
        "what": what,
        "runs": len(costs),
        "atoms_per_run": costs[0].atoms,
        "cpu_seconds_per_atom": round(statistics.median(each), 3),
        "cpu_seconds_per_atom_range": [round(min(each), 3), round(max(each), 3)],
        "wall_seconds_per_atom": round(statistics.median(c.wall / c.atoms for c in costs), 3),
        f"cpu_seconds_per_atom_at_{REFERENCE_GFLOPS:.0f}_gflops": round(statistics.median(scaled), 3),
        "steps_mean": round(statistics.mean(steps), 1),
        "steps_range": [min(steps), max(steps)],
        "recall": round(sum(c.right for c in costs) / sum(c.asked for c in costs), 4),
        "ratio": round(statistics.median(ratios), 3),
        "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "peak_rss_mib": round(max(c.peak_mib for c in costs)),
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sides, interleaved."""
    torch.set_num_threads(arguments.threads)
    load_before = os.getloadavg()
    base = load_base(arguments.base, device="cpu")
    settings = CompileSettings()
    jobs = [job_of(base, draft) for draft in chosen_drafts(arguments.atoms)]
    place, apart = prepared(base, settings)
    ours(replace(place, settings=short(settings)), jobs[:1], 1)  # touches memory, fills caches

    rounds = min(arguments.rounds, len(jobs))
    typical = by_typicality(jobs)
    sides: dict[str, list[Cost]] = {"ours_batched": [], "ours_one_adapter": [], "peft_loop": []}
    rates: list[float] = []
    learning_rate = 0.0
    tuning: list[dict[str, Any]] = []
    for number in range(rounds):
        job, few = typical[number], [typical[number], typical[(number + rounds) % len(jobs)]]
        before = gemm_gflops()
        costs = {"ours_batched": ours(place, jobs, settings.slots), "ours_one_adapter": ours(place, few, 1)}
        if number == 0:
            learning_rate, costs["peft_loop"], tuning = tuned_peft(base, job)
        else:
            costs["peft_loop"] = peft_loop(base, job, learning_rate)
        rates += [before, gemm_gflops()]
        for name, cost in costs.items():
            cost.gflops = statistics.mean(rates[-2:])
            sides[name].append(cost)
        print(*(f"{name}: {c.cpu / c.atoms:.2f} s/atom" for name, c in costs.items()), sep=", ", file=sys.stderr)

    batched = sides["ours_batched"]
    parts = {name: statistics.median(c.parts[name] / c.atoms for c in batched) for name in batched[0].parts}
    rows = [row(name, costs, batched) for name, costs in sides.items()]
    answers = [len(e.answer) for j in jobs for e in j.examples]
    return {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "device": "cpu"},
        "versions": {name: version(name) for name in ("torch", "transformers", "peft")},
        "settings": {
            "base": base.name if base.name == EMBEDDED_BASE else Path(base.name).name,
            "threads": arguments.threads,
            "atoms": len(jobs),
            "questions_per_atom": len(jobs[0].examples),
            "answer_tokens_mean": round(statistics.mean(answers), 1),
            "rounds": rounds,
            "slots": settings.slots,
            "compile": settings.model_dump(mode="json"),
            "peft": {"r": 8, "alpha": 16, "targets": "all-linear", "learning_rate": learning_rate, "tried": tuning},
            "clock": "process CPU time",
        },
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "gemm_gflops": {
            "median": round(statistics.median(rates), 1),
            "range": [round(min(rates), 1), round(max(rates), 1)],
        },
        "apart": apart,
        "rows": rows,
        "batched_cpu_seconds_per_atom_by_part": {name: round(seconds, 4) for name, seconds in parts.items()},
        "peft_over_batched": rows[2]["ratio"],
        "one_adapter_over_batched": rows[1]["ratio"],
    }


def short(settings: CompileSettings) -> CompileSettings:
    """A few steps only."""
    return settings.model_copy(update={"train": settings.train.model_copy(update={"max_steps": 2})})


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--atoms", type=int, default=16)
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=2, help="rounds, each with one atom for PEFT")
    arguments = parser.parse_args()
    if arguments.atoms < 1 or arguments.rounds < 1:
        parser.error("--atoms and --rounds must be at least 1")
    result = run(arguments)
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    print("{:>18} {:>10} {:>10} {:>7} {:>7} {:>8}".format("", "CPU s/atom", "wall", "steps", "recall", "ratio"))
    for one in result["rows"]:
        seconds = f"{one['cpu_seconds_per_atom']:10.3f} {one['wall_seconds_per_atom']:10.3f}"
        print(f"{one['what']:>18} {seconds} {one['steps_mean']:7.1f} {one['recall']:7.3f} {one['ratio']:8.2f}")


if __name__ == "__main__":
    main()
