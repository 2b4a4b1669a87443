"""The side of compile.py that is not ours, a plain PEFT loop for one atom, and the clock that all its sides share."""

from __future__ import annotations

import gc
import math
import re
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from atomlora.bases import Base
from atomlora.training.trainer import AtomJob
from atomlora.training.trunk import IGNORED

LEARNING_RATES = (1e-3, 2e-4)
LOOK_EVERY, MAX_STEPS = 5, 100


@dataclass
class Cost:
    """CPU and wall seconds of one run over `atoms` atoms, and what came out."""

    atoms: int
    cpu: float = 0.0
    wall: float = 0.0
    steps: list[int] = field(default_factory=list)
    right: int = 0
    asked: int = 0
    peak_mib: float = 0.0
    gflops: float = 0.0
    parts: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Adds the block's seconds, and takes the peak of resident memory within it."""
        gc.collect()
        reset_peak()
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.cpu += time.process_time() - cpu
        self.wall += time.perf_counter() - wall
        self.peak_mib = max(self.peak_mib, peak_mib())


def reset_peak() -> None:
    """Start the kernel's peak of resident memory afresh, where it allows that (Linux)."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """Peak resident memory in MiB since `reset_peak`, or of the process so far where that is not to be had."""
    try:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    except OSError:
        found = None
    if found:
        return int(found[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def peft_batch(job: AtomJob, pad: int) -> dict[str, torch.Tensor]:
    """The atom's examples padded on the right, labels only on answers."""
    length = max(len(e.prompt) + len(e.answer) for e in job.examples)
    shape = (len(job.examples), length)
    ids, labels = torch.full(shape, pad), torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, example in enumerate(job.examples):
        begin, end = len(example.prompt), len(example.prompt) + len(example.answer)
        ids[row, :end] = torch.tensor([*example.prompt, *example.answer])
        labels[row, begin:end] = torch.tensor(example.answer)
        mask[row, :end] = 1
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


def peft_loop(base: Base, job: AtomJob, learning_rate: float, give_up: float = math.inf) -> Cost:
    """One atom by PEFT; ends when all answers are right, after MAX_STEPS, or past `give_up` CPU seconds. The loop is
    timed, not the wrapping of the base."""
    torch.manual_seed(0)
    model = get_peft_model(base.model, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
    batch = peft_batch(job, base.tokenizer.pad_token_id)
    wanted, cost = batch["labels"][:, 1:], Cost(1, asked=len(job.examples))
    with cost.clock():
        trained = [p for p in model.parameters() if p.requires_grad]
        optimiser, start, step = torch.optim.AdamW(trained, lr=learning_rate), time.process_time(), 0
        while True:
            out = model(**batch)
            late = time.process_time() - start > give_up
            if step % LOOK_EVERY == 0 or late:
                right = (out.logits[:, :-1].argmax(-1) == wanted) | (wanted == IGNORED)
                cost.right = int(right.all(1).sum())
                if cost.right == cost.asked or step >= MAX_STEPS or late:
                    break
            out.loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            step += 1
    cost.steps = [step]
    model.unload()
    return cost


def tuned_peft(base: Base, job: AtomJob) -> tuple[float, Cost, list[dict[str, Any]]]:
    """The learning rate that reaches full recall with least CPU time; the second may use 1.2 times what the first
    took, since beyond that it cannot win."""
    tried: list[tuple[float, Cost]] = []
    for rate in LEARNING_RATES:
        done = [cost.cpu for _, cost in tried if cost.right == cost.asked]
        tried.append((rate, peft_loop(base, job, rate, 1.2 * min(done, default=math.inf))))
    rate, best = min(tried, key=lambda pair: (pair[1].right != pair[1].asked, pair[1].cpu))
    notes = [
        {"learning_rate": r, "cpu_seconds": round(c.cpu, 2), "steps": c.steps[0], "recall": c.right / c.asked}
        for r, c in tried
    ]
    return rate, best, notes
