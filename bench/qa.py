"""Answers to questions on documents: bare base, retrieved text, whole document, one adapter, atoms, both, extract.

    python bench/qa.py [--json] [--sets sample,squad,tofu,phantomwiki] [--data DIR] [--limit N] [--documents N]
                       [--reader auto|none|DIR]

Each set is compiled into a store of its own (a store that is there is brought up to date, which keeps its
atoms), and its questions, of which no compile run sees any, are asked in every mode in one run:

- sample: the sample corpus that ships with atomlora, and its golden questions;
- squad: DIR/squad/dev_titles.jsonl, passages of the titles from the 17th on (question writer and reader were trained
  on the first 16), spread evenly, and their human questions;
- tofu: DIR/tofu/authors_dev.jsonl; an author's answers joined are a document, the questions are the test
  (their answers are whole sentences: look at f1, contains is next to nothing);
- phantomwiki: DIR/phantomwiki_seed2/articles.jsonl, asked one_hop.jsonl.

Where there is a reader every mode that it can answer is asked twice, and its rows end in "+reader".
"""

# ruff: noqa: E402
from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import defaultdict
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

# transformers probes for a package called `kernels`, which the benchmark of that name must not answer.
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != Path(__file__).resolve().parent]

import torch

from atomlora import AtomLoRA, CompileSettings, compile_corpus
from atomlora.bases import EMBEDDED_BASE, cache_folder
from atomlora.corpora import sample_path
from atomlora.errors import AtomLoraError, InputError
from atomlora.evaluate import EVAL_MODES, EvalMode, ScoredAnswer, evaluate, parse_modes
from atomlora.full_context import read_documents
from atomlora.golden import load_golden, read_jsonl

TRAINED_TITLES = 16  # of squad, by the shipped question writer and reader
READ: tuple[EvalMode, ...] = ("text", "full", "atoms", "both", "auto")


class QuestionSet(NamedTuple):
    """A folder of documents and a golden file about them."""

    documents: Path
    golden: Path


def sample_set(_data: Path | None, _work: Path, _documents: int | None) -> QuestionSet:
    """The shipped corpus; it is small, so it is always taken whole."""
    folder = sample_path("kestrin")
    return QuestionSet(folder / "documents", folder / "golden.jsonl")


def tofu_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Authors who do not exist; a document is one author's answers joined."""
    authors: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for _, line in read_jsonl(given(data) / "tofu" / "authors_dev.jsonl"):
        authors[line["author_id"]].append(line)
    chosen = dict(list(authors.items())[:documents])
    articles = [{"id": author, "text": " ".join(line["answer"] for line in lines)} for author, lines in chosen.items()]
    golden = [
        {"question": line["question"], "answer": line["answer"], "source": f"authors.jsonl#{author}"}
        for author, lines in chosen.items()
        for line in lines
    ]
    return write_set(work, "authors.jsonl", articles, golden)


def phantomwiki_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Persons who do not exist, and questions that one sentence answers."""
    folder = given(data) / "phantomwiki_seed2"
    articles = [line for _, line in read_jsonl(folder / "articles.jsonl")][:documents]
    sources = {f"articles.jsonl#{article['id']}" for article in articles}
    golden = [line for _, line in read_jsonl(folder / "one_hop.jsonl") if line["source"] in sources]
    return write_set(work, "articles.jsonl", articles, golden)


def squad_set(data: Path | None, work: Path, documents: int | None) -> QuestionSet:
    """Passages that neither the question writer nor the reader was trained on."""
    lines = [line for _, line in read_jsonl(given(data) / "squad" / "dev_titles.jsonl")]
    unseen = list(dict.fromkeys(line["title"] for line in lines))[TRAINED_TITLES:]
    passages = [line for line in lines if line["title"] in unseen and line["questions"]]
    if documents is not None and documents < len(passages):
        passages = [passages[number * len(passages) // documents] for number in range(documents)]
    articles = [{name: passage[name] for name in ("id", "title", "text")} for passage in passages]
    golden = [
        {**one, "source": f"passages.jsonl#{passage['id']}"} for passage in passages for one in passage["questions"]
    ]
    return write_set(work, "passages.jsonl", articles, golden)


SETS: dict[str, Callable[[Path | None, Path, int | None], QuestionSet]] = {
    "sample": sample_set,
    "squad": squad_set,
    "tofu": tofu_set,
    "phantomwiki": phantomwiki_set,
}


def given(data: Path | None) -> Path:
    """The folder of --data; InputError without one."""
    if data is None:
        raise InputError("--data is missing: the folder that holds squad/, tofu/ and phantomwiki_seed2/")
    return data


def write_set(work: Path, name: str, articles: list[dict[str, Any]], golden: list[dict[str, Any]]) -> QuestionSet:
    """Write a jsonl corpus and its golden file below `work`."""
    found = QuestionSet(work / "documents", work / "golden.jsonl")
    found.documents.mkdir(parents=True, exist_ok=True)
    for path, lines in ((found.documents / name, articles), (found.golden, golden)):
        path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return found


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Compile one set and ask its questions in every mode."""
    whole = "" if arguments.documents is None else f"-{arguments.documents}"
    work = arguments.work / f"{name}{whole}"
    found = SETS[name](arguments.data, work, arguments.documents)
    tell(f"{name}: compiling")
    settings = CompileSettings(one_adapter="big" in arguments.modes)
    report = compile_corpus([found.documents], work / "store", settings, base=arguments.base, device=arguments.device)
    golden = load_golden(found.golden, arguments.limit)
    heard: dict[str, int] = defaultdict(int)

    def listen(answer: ScoredAnswer) -> None:
        heard[answer.mode] += 1
        if heard[answer.mode] % 50 == 0 or heard[answer.mode] == len(golden):
            tell(f"{name}: {answer.mode} {heard[answer.mode]}/{len(golden)}")

    how: dict[str, Any] = {
        "top_k": arguments.top_k,
        "batch_size": arguments.batch_size,
        "documents": read_documents(found.documents),
        "documents_name": "as compiled",
        "on_answer": listen,
    }
    with AtomLoRA.open(work / "store", device=arguments.device, reader=arguments.reader) as model:
        scores = evaluate(model, golden, arguments.modes, style="statement", **how).model_dump(mode="json")
        wanted = [mode for mode in arguments.modes if mode in READ]
        if model.reader is not None and wanted:
            heard.clear()
            read = evaluate(model, golden, wanted, style="short", **how).model_dump(mode="json")
            scores["reader"] = read["reader"]
            scores["modes"] |= {f"{mode}+reader": row for mode, row in read["modes"].items()}
    compiled = report.model_dump(mode="json", exclude={"store", "failed", "skipped"})
    return {"set": name, "compile": compiled, **scores}


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
            "top_k": arguments.top_k,
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
        print(f"  routing: recall@1 {routing['recall_at_1']:.3f}, @{routing['k']} {routing['recall_at_k']:.3f}")
        print(
            "  {:>14} {:>5} {:>9} {:>15} {:>7} {:>7} {:>10} {:>8} {:>11}".format(
                "mode", "n", "contains", "95 %", "f1", "em", "abstained", "tokens", "latency ms"
            )
        )
        for mode, row in one["modes"].items():
            interval = "{:.3f}-{:.3f}".format(*row["contains_interval"])
            print(
                f"  {mode:>14} {row['n']:5} {row['contains']:9.3f} {interval:>15} {row['f1']:7.3f} "
                f"{row['em']:7.3f} {row['abstained']:10.3f} {row['prompt_tokens']:8.1f} "
                f"{row['latency_ms']:11.1f}"
            )


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--sets", default="sample", help=f"of {','.join(SETS)}")
    parser.add_argument("--data", type=Path, help="folder that holds squad/, tofu/ and phantomwiki_seed2/")
    parser.add_argument("--work", type=Path, default=None, help="where stores lie (default: the user's cache)")
    parser.add_argument("--limit", type=int, help="questions of a set, evenly spread")
    parser.add_argument("--documents", type=int, help="documents of squad (spread), tofu and phantomwiki (the first)")
    parser.add_argument("--modes", default=",".join(EVAL_MODES))
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--reader", default="auto", help="auto, none or a folder written by `atomlora adapt`")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--top-k", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    arguments = parser.parse_args()
    arguments.sets = [name.strip() for name in arguments.sets.split(",") if name.strip()]
    unknown = [name for name in arguments.sets if name not in SETS]
    if unknown or not arguments.sets:
        parser.error(f"--sets: {', '.join(unknown) or 'empty'}; use {', '.join(SETS)}")
    for name in ("limit", "documents", "top_k", "batch_size"):
        if (value := getattr(arguments, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    try:
        arguments.modes = parse_modes(arguments.modes)
        # One store a base: another base is another compile run.
        folder = "".join(mark if mark.isalnum() or mark in "-." else "_" for mark in arguments.base)
        arguments.work = (arguments.work or cache_folder() / "bench-qa") / folder
        result = run(arguments)
    except AtomLoraError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    if arguments.json:
        json.dump(result, sys.stdout, indent=2)
        print()
    else:
        show(result)


if __name__ == "__main__":
    main()
