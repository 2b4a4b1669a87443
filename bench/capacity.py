"""How much one adapter holds: recall of a phone book by rank, layers and number of entries.

    python bench/capacity.py --json [--data FILE] [--ranks 1,4,16] [--entries 25,100,400] [--plots DIR]

An entry is a question that names a person and an answer of ten random digits, so nothing can be guessed and what is
recalled is stored. One adapter learns all entries by the compiler's own trainer (no neighbours, no silence, at least
`--steps` steps and `--passes` passes over the entries unless it is done before); recall is the share of entries whose
ten digits are greedy, to the end of the turn. `atoms` rows are what the product does: an atom for each entry (or for
every `--per-atom` of them), many at once, by the default recipe but for the rank. Without --data the book is made of
random names and digits; --data takes lines {"query", "target"}, as the phone books of the Parametric Memory Law come.
The loss that an adapter of rank r takes off n entries of l tokens, in nats a token, is fitted to that law's form,
dL = C r^a (n l)^-b + c (arXiv 2605.30260), over the rows that are short of full recall. Rows are kept in --keep FILE as
they come, and those that are there are not made again, so a grid can be run in pieces.
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import beside  # noqa: F401 - takes this folder off the import path
import numpy as np
import torch

from atomlora.atom import digest_json, record_size
from atomlora.bases import EMBEDDED_BASE, Base, load_base
from atomlora.prompts import common_prefix
from atomlora.settings import AdapterSettings, CompileSettings
from atomlora.training.objective import CandidateHead
from atomlora.training.pool import load_or_train_pool, neighbours_and_bank
from atomlora.training.rows import IGNORED
from atomlora.training.shape import resolve_targets
from atomlora.training.trainer import AtomJob, TrainedAtom, Trainer
from atomlora.training.trunk import Example, Trunk

ROWS_PER_STEP = 64
SYLLABLES = tuple(consonant + vowel for consonant in "bdfghklmnprstv" for vowel in "aeio")
BYTES_PER_NUMBER = 2  # bfloat16
WHAT = ("kind", "rank", "layers", "entries", "adapters")  # tells rows apart


def made_book(size: int) -> list[tuple[str, str]]:
    """Distinct invented names with ten random digits each, the same at every call."""
    draw = random.Random(0)
    book: dict[str, str] = {}
    while len(book) < size:
        first, last = ("".join(draw.choices(SYLLABLES, k=3)).capitalize() for _ in range(2))
        book.setdefault(f"{first} {last}:", "".join(draw.choices("0123456789", k=10)))
    return list(book.items())


def read_book(path: Path, size: int) -> list[tuple[str, str]]:
    """The first `size` distinct entries of a jsonl file of {"query", "target"}."""
    lines = (json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip())
    book = {one["query"]: one["target"] for one in lines}
    if len(book) < size:
        raise SystemExit(f"{path}: holds {len(book)} entries, not {size}; ask for fewer by --entries")
    return list(book.items())[:size]


class Memory:
    """A base, and the book's entries as examples for it."""

    def __init__(self, base: Base, book: Sequence[tuple[str, str]], steps: int, passes: int) -> None:
        self.base, self.steps, self.passes = base, steps, passes
        self.examples = [Example.asked(base.tokenizer, name, digits) for name, digits in book]

    def row(self, kind: str, adapter: AdapterSettings, count: int, per_atom: int = 1) -> dict[str, Any]:
        """Train on the first `count` entries: one adapter (`adapter`), or an atom for every `per_atom` (`atoms`)."""
        settings = CompileSettings(adapter=adapter)
        targets = resolve_targets(self.base.model, adapter)
        prefix, pad = common_prefix(self.base.tokenizer), self.base.tokenizer.pad_token_id
        trunk = Trunk(self.base.model, min(target.layer for target in targets), prefix, pad)
        pool = load_or_train_pool(self.base, trunk, targets, CompileSettings(adapter=adapter), lambda *_: None)
        examples, began = self.examples[:count], time.process_time()
        if kind == "atoms":
            neighbours, bank = neighbours_and_bank(self.base, trunk, targets, pool, settings)
            slots, train = settings.slots, settings.train
            jobs = [tuple(examples[start : start + per_atom]) for start in range(0, count, per_atom)]
        else:
            steps = max(self.steps, self.passes * -(-count // ROWS_PER_STEP))
            change = {"rows_per_step": ROWS_PER_STEP, "max_steps": steps, "decay_steps": steps, "silence_rows": 0}
            train = settings.train.model_copy(update=change | {"mixed_visibility": 0.0})
            neighbours, bank, slots, jobs = None, None, 1, [tuple(examples)]
        trainer = Trainer(self.base.model, trunk, targets, adapter, train, slots, bank, neighbours, pool.whitening)
        named = [AtomJob(digest_json([kind, count, number]), job) for number, job in enumerate(jobs)]
        trained = list(trainer.run(named))
        seconds = time.process_time() - began
        size_bytes = record_size(adapter.rank, targets) * BYTES_PER_NUMBER * len(named)
        asked = {"kind": kind, "rank": adapter.rank, "layers": adapter.layers, "entries": count, "adapters": len(named)}
        return asked | self._found(trained, trunk, count, size_bytes, seconds)

    def _found(
        self, trained: Sequence[TrainedAtom], trunk: Trunk, count: int, size_bytes: int, seconds: float
    ) -> dict[str, Any]:
        recalled = sum(sum(one.passed) for one in trained)
        loss = float(np.mean([one.loss for one in trained]))
        return {
            "recall": round(recalled / count, 4),
            "loss": round(loss, 4),
            "loss_reduction": round(self._bare_loss(trunk, count) - loss, 4),
            "tokens": sum(len(one.answer) for one in self.examples[:count]),
            "steps": round(float(np.mean([one.steps for one in trained])), 1),
            "cpu_seconds": round(seconds, 1),
            "size_bytes": size_bytes,
            "bytes_per_recalled_entry": round(size_bytes / max(recalled, 1)),
        }

    @torch.no_grad()
    def _bare_loss(self, trunk: Trunk, count: int) -> float:
        """Mean NLL per answer token of the bare base over the first entries."""
        some = self.examples[: min(count, 64)]
        rows = trunk.rows(some, [0] * len(some), with_final=True)
        real = rows.targets != IGNORED
        assert rows.final is not None
        _, nll = CandidateHead(self.base.model).exact(rows.final[real], rows.targets[real])
        return float(nll.mean())


def fitted_law(rows: Sequence[dict[str, Any]]) -> dict[str, float] | None:
    """C, a, b and c of dL = C r^a T^-b + c over the rows of one adapter that are short of full recall, and R²; None
    where they are fewer than five or all of one rank, which says nothing of a. c is searched on a grid, the others
    follow by least squares in logarithms."""
    short = [row for row in rows if row["kind"] == "adapter" and row["recall"] < 1 and row["loss_reduction"] > 0]
    if len(short) < 5 or len({row["rank"] for row in short}) < 2:
        return None
    gain = np.array([row["loss_reduction"] for row in short])
    table = np.column_stack(
        [np.ones(len(short)), np.log([r["rank"] for r in short]), -np.log([r["tokens"] for r in short])]
    )
    best: tuple[float, float, np.ndarray] | None = None
    for offset in np.linspace(-2.0, 0.95 * gain.min(), 60):
        found, *_ = np.linalg.lstsq(table, np.log(gain - offset), rcond=None)
        miss = float(((np.exp(table @ found) + offset - gain) ** 2).sum())
        if best is None or miss < best[0]:
            best = (miss, float(offset), found)
    assert best is not None
    miss, offset, (constant, rank_power, token_power) = best
    spread = float(((gain - gain.mean()) ** 2).sum()) or 1.0
    figures = {"C": np.exp(constant), "a": rank_power, "b": token_power, "c": offset, "r_squared": 1 - miss / spread}
    return {name: round(float(value), 4) for name, value in figures.items()}


def rows_of(memory: Memory, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Every adapter that was asked for, then the atoms; kept ones first of all."""
    keep: Path | None = arguments.keep
    kept = [json.loads(line) for line in keep.read_text().splitlines()] if keep is not None and keep.is_file() else []
    yield from kept
    done = [[row[name] for name in WHAT] for row in kept]
    for kind, adapter, count, per_atom in wanted(arguments):
        adapters = 1 if kind == "adapter" else -(-count // per_atom)
        if [kind, adapter.rank, adapter.layers, count, adapters] not in done:
            row = memory.row(kind, adapter, count, per_atom)
            if keep is not None:
                with keep.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
            yield row


def wanted(arguments: argparse.Namespace) -> Iterator[tuple[str, AdapterSettings, int, int]]:
    """Kind, shape, entries and entries of an atom of each row."""
    for layers in arguments.layers:
        for rank in arguments.ranks:
            for count in arguments.entries:
                yield "adapter", AdapterSettings(rank=rank, layers=layers), count, count
    for rank in arguments.atom_ranks:
        for per_atom in arguments.per_atom:
            yield "atoms", AdapterSettings(rank=rank), arguments.atoms, per_atom


def plot(rows: Sequence[dict[str, Any]], folder: Path) -> None:
    """capacity.png: recall by entries, a line for each rank and choice of layers."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    folder.mkdir(parents=True, exist_ok=True)
    figure, axis = pyplot.subplots(figsize=(6, 4))
    for layers, rank in dict.fromkeys((row["layers"], row["rank"]) for row in rows if row["kind"] == "adapter"):
        mine = [row for row in rows if (row["kind"], row["layers"], row["rank"]) == ("adapter", layers, rank)]
        axis.plot([r["entries"] for r in mine], [r["recall"] for r in mine], marker="o", label=f"rank {rank}, {layers}")
    axis.set(xlabel="entries in one adapter", ylabel="recall", xscale="log", ylim=(-0.02, 1.02))
    axis.legend(fontsize=8)
    figure.savefig(folder / "capacity.png", dpi=140, bbox_inches="tight")


def main() -> None:
    """Parse, train, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--plots", type=Path, help="folder for a picture (needs matplotlib)")
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--data", type=Path, help='jsonl of {"query", "target"} (default: a made book)')
    parser.add_argument("--ranks", default="1,4,16")
    parser.add_argument("--entries", default="25,100,400")
    parser.add_argument("--layers", default="late:auto", help="choices of layers, split by ;")
    parser.add_argument("--atoms", type=int, default=100, help="entries that get an atom each")
    parser.add_argument("--atom-ranks", default="1,2,4")
    parser.add_argument("--per-atom", default="1", help="entries that share an atom")
    parser.add_argument("--steps", type=int, default=200, help="of one adapter, at least")
    parser.add_argument("--passes", type=int, default=40, help="over all entries, at most")
    parser.add_argument("--keep", type=Path, help="jsonl of finished rows, of one base and one book")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    for name in ("ranks", "entries", "atom_ranks", "per_atom"):
        given = getattr(arguments, name)
        try:
            values = [int(one) for one in given.split(",") if one.strip()]
        except ValueError:
            values = [0]
        if any(value < 1 for value in values):
            parser.error(f"--{name.replace('_', '-')} {given}: give numbers from 1 on, such as 1,2,4")
        setattr(arguments, name, values)
    arguments.layers = arguments.layers.split(";")
    torch.set_num_threads(arguments.threads)
    size = max([*arguments.entries, arguments.atoms])
    book = made_book(size) if arguments.data is None else read_book(arguments.data, size)
    memory = Memory(load_base(arguments.base), book, arguments.steps, arguments.passes)
    rows = []
    for row in rows_of(memory, arguments):
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    result = {
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
        "versions": {name: version(name) for name in ("atomlora", "torch", "transformers")},
        "base": arguments.base,
        "rows": rows,
        "law": fitted_law(rows),
    }
    if arguments.plots is not None:
        plot(rows, arguments.plots)
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        print()
        return
    print("kind     rank  layers     entries adapters  recall   loss  steps  CPU s  KiB  bytes/entry")
    for row in rows:
        kind = f"{row['kind']:8} {row['rank']:4}  {row['layers']:9} {row['entries']:8} {row['adapters']:8}"
        size = f"{row['size_bytes'] / 1024:6.0f} {row['bytes_per_recalled_entry']:8}"
        print(f"{kind}  {row['recall']:.3f} {row['loss']:5.2f} {row['steps']:6} {row['cpu_seconds']:6} {size}")
    print(f"law: {result['law']}")


if __name__ == "__main__":
    main()
