"""Answers to questions on documents: bare base, retrieved text, whole document, one adapter, atoms, both, extract,
two rivals trained by PEFT, and atoms that learnt the very questions.

    python bench/qa.py [--json] [--plots DIR] [--sets sample,squad,tofu,…] [--data DIR] [--limit N] [--documents N]
                       [--modes none,text,full,big,atoms,both,auto,extract,lora,prag,prag-all,prag-recalled,oracle]
                       [--hops N] [--reader auto|none|DIR]

Each set is compiled into a store of its own (a store that is there is brought up to date, which keeps its atoms), and
its questions, of which no compile run sees any, are asked in every mode in one run. Every row that is done is kept
below --work: the same command goes on where it was cut off. Sets (of --data, but for the first):

- sample: the sample corpus that ships with atomlora, and its golden questions;
- squad: squad/dev_titles.jsonl, passages of the titles from the 17th on (question writer and reader were trained
  on the first 16), spread evenly, and their human questions;
- tofu: tofu/authors_dev.jsonl; an author's answers joined are a document, the questions are the test
  (their answers are whole sentences: look at f1, contains is next to nothing);
- phantomwiki: phantomwiki_seed2/articles.jsonl, asked one_hop.jsonl;
- phantomwiki-hops: the same articles, asked what takes two to four steps (questions.json, counting left out);
- fictional: fictional_knowledge/dev.jsonl, beginnings of sentences of three kinds to complete;
- phonebook: phonebook/qwen_PB32000.jsonl, the first 400 of 3,200 names with numbers (--documents 64 for all), a
  sentence each.

`lora` and `prag` are described in bench/qa_rivals.py, `oracle` in bench/qa_oracle.py. Where there is a reader every
mode that it can answer is asked twice, and its rows end in "+reader".
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from beside import beside, told

from atomlora import AtomLoRA, CompileSettings, compile_corpus
from atomlora.answers import Style
from atomlora.atom import digest_json
from atomlora.bases import EMBEDDED_BASE, cache_folder, load_base
from atomlora.errors import AtomLoraError
from atomlora.evaluate import (
    EVAL_MODES,
    EvalMode,
    ScoredAnswer,
    evaluate,
    mean_scores,
    parse_modes,
    routing_scores,
    scored,
)
from atomlora.full_context import read_documents
from atomlora.golden import load_golden
from atomlora.router import RouterSettings
from atomlora.store import Store

qa_sets, qa_rows = beside("qa_sets"), beside("qa_rows")
qa_rivals, qa_oracle = beside("qa_rivals"), beside("qa_oracle")
RIVALS = (*qa_rivals.RIVALS, qa_oracle.NAME)
READ: tuple[EvalMode, ...] = ("text", "full", "atoms", "both", "auto")
NEW_TOKENS = 96


class Run:
    """One set: its store, its questions, the rows that are done."""

    def __init__(self, name: str, arguments: argparse.Namespace) -> None:
        self.name, self.arguments = name, arguments
        whole = "" if arguments.documents is None else f"-{arguments.documents}"
        self.work: Path = arguments.work / f"{name}{whole}"
        self.found = qa_sets.SETS[name](arguments.data, self.work, arguments.documents)
        self.golden = load_golden(self.found.golden, arguments.limit)
        self.compiled = self._compile()
        with Store.open(self.work / "store") as store:
            self.atoms, self.targets = list(store.atoms()), store.manifest.targets
        self.done = qa_rows.Rows(self.work / "rows.jsonl")
        self.rows: dict[str, list[ScoredAnswer]] = {}
        self.opening: dict[str, Any] = {"device": arguments.device, "dtype": arguments.dtype}
        if arguments.hops > 1:
            self.opening["router"] = RouterSettings(hops=arguments.hops)

    def _compile(self) -> dict[str, Any]:
        """The run's report; `cpu_s` and `seconds` are those of all whole runs that trained its atoms."""
        tell(f"{self.name}: compiling")
        arguments, began = self.arguments, time.process_time()
        settings = CompileSettings(one_adapter="big" in arguments.modes)
        how = {"base": arguments.base, "device": arguments.device, "dtype": arguments.dtype}
        report = compile_corpus([self.found.documents], self.work / "store", settings, **how).model_dump(
            mode="json", exclude={"store", "failed", "skipped"}
        )
        kept = self.work / "compiled.jsonl"
        if report["atoms_new"]:
            spent = {"atoms": report["atoms_new"], "cpu_s": time.process_time() - began, "seconds": report["seconds"]}
            with kept.open("a", encoding="utf-8") as file:
                file.write(json.dumps(spent) + "\n")
        runs = [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []
        return report | {"cpu_s": sum(run["cpu_s"] for run in runs), "seconds": sum(run["seconds"] for run in runs)}

    def key(self, label: str, *others: object) -> str:
        """Names a row: what it is asked, of what, and how."""
        arguments = self.arguments
        golden = hashlib.sha256(self.found.golden.read_bytes()).hexdigest()
        atoms = sorted(atom.weights_digest for atom in self.atoms)
        return digest_json([label, golden, atoms, arguments.limit, arguments.top_k, arguments.hops, *others])

    def ask(self, style: Style, modes: list[EvalMode]) -> str | None:
        """Every mode in one style; the reader's name where there is one that was wanted."""
        arguments = self.arguments
        with AtomLoRA.open(self.work / "store", reader=arguments.reader, **self.opening) as model:
            if style == "short" and model.reader is None:
                return None
            documents = read_documents(self.found.documents)
            for mode in modes:
                label = mode if style == "statement" else f"{mode}+reader"
                key = self.key(label, model.reader.name if style == "short" and model.reader is not None else "")
                row = self.done.get(key)
                if row is None:
                    row = []
                    evaluate(
                        model,
                        self.golden,
                        [mode],
                        style=style,
                        top_k=arguments.top_k,
                        max_new_tokens=NEW_TOKENS,
                        batch_size=arguments.batch_size,
                        documents=documents,
                        on_answer=row.append,
                    )
                    self.done.keep(key, row)
                self.rows[label] = row
                tell(f"{self.name}: {label} {len(row)}/{len(self.golden)}")
            return model.reader.name if model.reader is not None else None

    def rival(self, kind: str) -> dict[str, Any]:
        """Train a rival and ask it; what its training took."""
        arguments = self.arguments
        base = load_base(arguments.base, arguments.device, arguments.dtype)
        folders = qa_rivals.train_rival(kind, base, self.atoms, self.targets, self.work, tell)
        key, questions = self.key(kind), [one.question for one in self.golden]
        row = self.done.get(key)
        if row is None:
            if kind == "lora":
                replies = qa_rivals.ask_lora(base, folders, questions, NEW_TOKENS, arguments.batch_size)
            else:
                with AtomLoRA.open(self.work / "store", reader="none", **self.opening) as model:
                    routes = model.router.route_batch(questions, arguments.top_k)
                routed = [[atom.id for atom in route.atoms] for route in routes]
                chosen = qa_rivals.passages_routed(qa_rivals.passages_of(self.atoms), routed)
                replies = qa_rivals.ask_prag(base, folders, questions, chosen, NEW_TOKENS, arguments.batch_size)
            pairs = zip(self.golden, replies, strict=True)
            row = self.done.keep(key, [scored(one, reply, kind) for one, reply in pairs])
        self.rows[kind] = row
        tell(f"{self.name}: {kind} {len(row)}/{len(self.golden)}")
        records = [json.loads((folder / "training.json").read_text()) for folder in folders]
        totals = {name: round(sum(one[name] for one in records), 2) for name in ("cpu_s", "wall_s", "size_bytes")}
        return {"adapters": len(folders), **totals, "trainings": records}

    def oracle(self) -> dict[str, Any]:
        """Compile the oracle's store and ask it; what that took."""
        arguments, name = self.arguments, qa_oracle.NAME
        how = {"base": arguments.base, "device": arguments.device, "dtype": arguments.dtype}
        spent = qa_oracle.compile_oracle(self.found.documents, self.found.golden, self.work / name, **how)
        row = self.done.get(key := self.key(name, spent["compile"]["version"]))
        if row is None:
            asking = {"top_k": arguments.top_k, "max_new_tokens": NEW_TOKENS, "batch_size": arguments.batch_size}
            row = self.done.keep(key, qa_oracle.ask_oracle(self.work / name, self.golden, asking, self.opening))
        self.rows[name] = row
        tell(f"{self.name}: {name} {len(row)}/{len(self.golden)}")
        return spent


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile one set and ask its questions in every mode."""
    run = Run(name, arguments)
    modes = list(arguments.modes)
    run.ask("statement", modes)
    reader = run.ask("short", [mode for mode in modes if mode in READ]) if arguments.reader != "none" else None
    rivals = {kind: run.oracle() if kind == qa_oracle.NAME else run.rival(kind) for kind in arguments.rivals}
    with AtomLoRA.open(run.work / "store", reader="none", **run.opening) as model:
        routing = routing_scores(model, run.golden, arguments.top_k)
    kinds = qa_sets.kinds(run.found.golden)
    return {
        "set": name,
        "compile": run.compiled | weights(run),
        "rivals": rivals,
        "reader": reader,
        "routing": None if routing is None else routing.model_dump(mode="json"),
        "modes": {label: mean_scores(row).model_dump(mode="json") for label, row in run.rows.items()},
        "kinds": {
            kind: {label: scores.model_dump(mode="json") for label, scores in rows.items()}
            for kind, rows in qa_rows.by_kind(run.rows, kinds).items()
        },
        "gains_of_atoms": qa_rows.gains(run.rows),
    }


def weights(run: Run) -> dict[str, Any]:
    """Bytes of the atoms' weights as they lie in the store, and what the one adapter of mode big took, if there is."""
    with Store.open(run.work / "store") as store:
        found: dict[str, Any] = {"size_bytes": sum(entry.size for entry in store.entries())}
        if store.manifest.one_adapter is not None and (one := store.one_adapter()) is not None:
            atom = one[0]
            found["big"] = {"rank": atom.rank, **atom.record.model_dump(include={"steps", "recall", "seconds"})}
    return found


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """All sets."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    sets = [measure(name, arguments) for name in arguments.sets]
    cuda = torch.cuda.is_available() and arguments.device != "cpu"
    return {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "threads": torch.get_num_threads(),
        },
        "versions": {name: version(name) for name in ("atomlora", "torch", "transformers")},
        "settings": {
            "base": arguments.base,
            "dtype": arguments.dtype,
            "top_k": arguments.top_k,
            "hops": arguments.hops,
            "batch_size": arguments.batch_size,
            "limit": arguments.limit,
            "documents": arguments.documents,
        },
        "sets": sets,
    }


def show(result: dict[str, Any]) -> None:
    """The figures as tables."""
    for one in result["sets"]:
        compiled, routing = one["compile"], one["routing"]
        print(f"{one['set']}: {compiled['atoms_total']} atoms, {compiled['atoms_failed']} not learnt in full")
        print(f"  compiled in {compiled['cpu_s']:.0f} CPU s, {compiled['size_bytes'] / 1024:.0f} KiB of weights")
        for kind, rival in one["rivals"].items():
            size = f"{rival['size_bytes'] / 1024:.0f} KiB"
            print(f"  {kind}: {rival['adapters']} adapters in {rival['cpu_s']:.0f} CPU s, {size}")
        if routing is not None:
            print(f"  routing: recall@1 {routing['recall_at_1']:.3f}, @{routing['k']} {routing['recall_at_k']:.3f}")
        for kind, rows in {"": one["modes"], **one["kinds"]}.items():
            print(f"  {kind}\n{qa_rows.HEAD}" if kind else qa_rows.HEAD)
            for mode, row in rows.items():
                print(qa_rows.shown(mode, row))
        for mode, gain in one["gains_of_atoms"].items():
            print(
                "  atoms - {}: contains {:+.3f} ({:+.3f} to {:+.3f}), f1 {:+.3f} ({:+.3f} to {:+.3f})".format(
                    mode, *gain["contains"], *gain["f1"]
                )
            )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="draw the figures into a folder (needs matplotlib)")
    parser.add_argument("--sets", default="sample", help=f"of {','.join(qa_sets.SETS)}")
    parser.add_argument("--data", type=Path, help="folder that holds squad/, tofu/, …")
    parser.add_argument("--work", type=Path, default=None, help="where stores lie (default: the user's cache)")
    parser.add_argument("--limit", type=int, help="questions of a set, evenly spread")
    parser.add_argument("--documents", type=int, help="documents of squad (spread), of the others the first")
    parser.add_argument("--modes", default=",".join((*EVAL_MODES, *RIVALS)))
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--reader", default="auto", help="auto, none or a folder written by `atomlora adapt`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto", help="of the base: auto (float32 on CPU), float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--hops", type=int, default=1, help="rounds of routing, see atomlora ask")
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    arguments.sets = [name.strip() for name in arguments.sets.split(",") if name.strip()]
    unknown = [name for name in arguments.sets if name not in qa_sets.SETS]
    if unknown or not arguments.sets:
        parser.error(f"--sets: {', '.join(unknown) or 'empty'}; use {', '.join(qa_sets.SETS)}")
    for name in ("limit", "documents", "top_k", "batch_size", "hops"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    try:
        names = [name.strip() for name in arguments.modes.split(",") if name.strip()]
        arguments.rivals = [name for name in dict.fromkeys(names) if name in RIVALS]
        others = [name for name in names if name not in RIVALS]
        arguments.modes = parse_modes(",".join(others)) if others or not arguments.rivals else ()
        # One store a base: another base is another compile run.
        folder = "".join(mark if mark.isalnum() or mark in "-." else "_" for mark in arguments.base)
        arguments.work = (arguments.work or cache_folder() / "bench-qa") / folder
        result = run(arguments)
    except AtomLoraError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    if arguments.plots is not None:
        beside("qa_plots").plot(result, arguments.plots)
    told(result, arguments.json, show)


if __name__ == "__main__":
    main()
