"""What becomes of an atom beside others, by what puts them together: operators on the same atoms, side by side.

    python bench/interference.py [--json] [--plots DIR] [--store STORE --golden FILE] [--other STORE]

Without --store, two halves of the sample corpus are compiled into two stores, so the atoms of one have never been
in a run with those of the other. Each question (people's wording) is asked with its own atom and k - 1 others mounted:
`nearest`, those that the router ranks highest, or `random` ones, which then get the gates and scores of those; of
the `same` run or of the `other`. Recall: the golden answer stands in the greedy answer. Operators:

- gates: every atom at the router's gate, one statement; turns: the atom itself at weight 1, the others at their gates
  (in the product every routed atom leads one such statement; the others' are not counted here); steady: the same, and
  a statement that loses its thread is asked again of the atom alone, as the product does; steady unit: all at weight 1,
  and asked again likewise;
- unit: all at weight 1; convex: gates divided by their sum; softmax: softmax of the router's scores; top1: only the
  atom of them that the router ranks first;
- ties, dare: PEFT's add_weighted_adapter (ties_svd, dare_ties_svd, density 0.5, all at weight 1), on fewer questions;
- big: the store's one adapter for everything, of as many parameters as all atoms (`compile --one-adapter`);
- text: no atom, the k texts in the prompt; full: the whole source document in the prompt.

Off topic, the same operators with k random atoms on general questions that no training saw: KL(base || composed) per
token of the base's answer in nats, and the share of greedy answers that stay the same.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from beside import beside, told

from atomlora import compile_corpus
from atomlora.bases import cache_folder
from atomlora.corpora import sample_path
from atomlora.errors import AtomLoraError
from atomlora.full_context import ask_documents
from atomlora.golden import load_golden
from atomlora.interference.lab import Lab, Stack
from atomlora.interference.off_topic import base_examples, changed, mean_kl
from atomlora.interference.unseen_questions import UNSEEN_QUESTIONS
from atomlora.metrics import bootstrap_interval, contains, mean
from atomlora.prompts import chat_prompt
from atomlora.store import Store

stacks, merges, plots = beside("stacks"), beside("merges"), beside("interference_plots")
Found, SUMS, World, company = stacks.Found, stacks.SUMS, stacks.World, stacks.company
HALVES = (
    ("about.md", "places", "fleet", "people"),
    ("history", "policies", "technical", "minutes", "notices", "procedures"),
)


class Recall:
    """Asks, and counts; the same stack is asked a question once."""

    def __init__(self, world: Any, tokens: int) -> None:
        self.world, self.tokens = world, tokens
        self.merger = merges.Merger(world.pool, world.targets)
        self._known: dict[tuple[Any, ...], float] = {}

    def hits(self, questions: Sequence[Any], made: Sequence[Stack], texts: Sequence[str] | None = None) -> list[float]:
        """Whether each question's answer holds the golden one, under its stack, with a text in the prompt or none."""
        given = list(texts) if texts is not None else [None] * len(questions)
        keys = [(one.golden.question, stack, text) for one, stack, text in zip(questions, made, given, strict=True)]
        new = [number for number, key in enumerate(keys) if key not in self._known]
        tokenizer = self.world.base.tokenizer
        prompts = [chat_prompt(tokenizer, questions[n].golden.question, given[n]) for n in new]
        said = self.world.say(prompts, [made[n] for n in new], self.tokens)
        for number, answer in zip(new, said, strict=True):
            self._known[keys[number]] = self._hit(questions[number], answer)
        return [self._known[key] for key in keys]

    def steady(self, questions: Sequence[Any], made: Sequence[Stack]) -> list[float]:
        """The same where what loses its thread is asked again."""
        said = self.world.say_steady([one.golden.question for one in questions], made, self.tokens)
        return [self._hit(one, answer) for one, answer in zip(questions, said, strict=True)]

    def merged(self, questions: Sequence[Any], found: Sequence[Sequence[Any]], method: str) -> list[float]:
        """The same with the atoms merged into one adapter."""
        hits = []
        for one, some in zip(questions, found, strict=True):
            adapter = self.merger.merged([atom.atom for atom in some], method)
            prompt = chat_prompt(self.world.base.tokenizer, one.golden.question)
            hits.append(self._hit(one, self.world.say_merged(prompt, adapter, self.tokens)))
        return hits

    def big(self, questions: Sequence[Any]) -> list[float]:
        """The store's one adapter, alone."""
        prompts = [chat_prompt(self.world.base.tokenizer, one.golden.question) for one in questions]
        said = [self.world.say_merged(prompt, self.world.one_adapter, self.tokens) for prompt in prompts]
        return [self._hit(one, answer) for one, answer in zip(questions, said, strict=True)]

    def full(self, questions: Sequence[Any]) -> list[float]:
        """The whole source document in the prompt."""
        documents = ["\n\n".join(self.world.document(s) or "" for s in one.golden.sources) for one in questions]
        asked = [one.golden.question for one in questions]
        replies = ask_documents(self.world.base, asked, documents, self.tokens)
        return [self._hit(one, reply.text) for one, reply in zip(questions, replies, strict=True)]

    def _hit(self, question: Any, answer: str) -> float:
        return contains(answer, question.golden.golden, question.golden.rule)


def recall_rows(world: Any, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each operator, k, kind of others and run."""
    recall, questions = Recall(world, arguments.tokens), world.questions
    few = questions[:: max(1, len(questions) // arguments.merge_questions)][: arguments.merge_questions]

    def row(operator: str, k: int, others: str, run: str, hits: list[float]) -> dict[str, Any]:
        tell(f"{operator} k={k} {others} {run}: {mean(hits):.3f} of {len(hits)}")
        key = {"operator": operator, "k": k, "others": others, "run": run}
        return key | {"n": len(hits), "recall": round(mean(hits), 4), "interval": bootstrap_interval(hits)}

    yield row("none", 0, "-", "-", recall.hits(questions, [Stack((), ())] * len(questions)))
    alone = [Stack.at_one(one.own.atom) for one in questions]
    yield row("alone", 1, "-", "-", recall.hits(questions, alone))
    yield row("steady", 1, "-", "-", recall.steady(questions, alone))
    yield row("full", 0, "-", "-", recall.full(questions))
    if world.one_adapter is not None:
        yield row("big", 1, "-", "-", recall.big(questions))
    for run in dict.fromkeys(world.run):
        for others in ("nearest", "random"):
            for k in arguments.ks:
                random = np.random.default_rng(k)
                found = [company(world, one, k, others, run, random) for one in questions]
                for name, weigh in SUMS.items():
                    yield row(name, k, others, run, recall.hits(questions, [weigh(some) for some in found]))
                for name, weigh in {"steady": SUMS["turns"], "steady unit": SUMS["unit"]}.items():
                    yield row(name, k, others, run, recall.steady(questions, [weigh(some) for some in found]))
                texts = ["\n".join(dict.fromkeys(world.atoms[one.atom].text for one in some)) for some in found]
                bare = [Stack((), ())] * len(questions)
                yield row("text", k, others, run, recall.hits(questions, bare, texts))
                chosen = [found[questions.index(one)] for one in few]
                for method in merges.METHODS if 1 < k <= arguments.merge_k else ():
                    yield row(method, k, others, run, recall.merged(few, chosen, method))


def off_topic_rows(world: Any, arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row for each operator: k random atoms on general questions."""
    questions = list(UNSEEN_QUESTIONS[: arguments.off_topic])
    examples = base_examples(world.base, questions, arguments.tokens)
    lab, random = Lab(world.base, world.targets), np.random.default_rng(0)
    merger = merges.Merger(world.pool, world.targets)
    ranked = world.route(questions)
    if world.one_adapter is not None:
        lab.reach(merges.pool_of([world.one_adapter]))
        alone = [Stack.at_one(0)] * len(questions)
        yield _off_topic("big", 1, changed(lab, examples, range(len(questions)), alone))
    for k in arguments.ks:
        drawn = [random.permutation(len(world.atoms))[:k].tolist() for _ in questions]
        found = [
            [Found(atom, one.gate, one.score) for atom, one in zip(some, routed, strict=False)]
            for some, routed in zip(drawn, ranked, strict=True)
        ]
        for name, weigh in SUMS.items():
            lab.reach(world.pool)
            yield _off_topic(name, k, changed(lab, examples, range(len(questions)), [weigh(some) for some in found]))
        for method in merges.METHODS if 1 < k <= arguments.merge_k else ():
            many = min(arguments.merge_questions, len(questions))
            adapters = [merger.merged([one.atom for one in some], method) for some in found[:many]]
            lab.reach(merges.pool_of(adapters))
            yield _off_topic(method, k, changed(lab, examples, range(many), [Stack.at_one(n) for n in range(many)]))


def _off_topic(operator: str, k: int, found: Sequence[Any]) -> dict[str, Any]:
    same = [float(one.same) for one in found]
    tell(f"off topic {operator} k={k}: KL {mean_kl(found):.4f}, unchanged {mean(same):.3f}")
    figures = {"kl": round(mean_kl(found), 5), "unchanged": round(mean(same), 4), "interval": bootstrap_interval(same)}
    return {"operator": operator, "k": k, "n": len(found), **figures}


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def halves(work: Path) -> tuple[Path, Path]:
    """The two halves of the sample corpus, each compiled into a store of its own (brought up to date if there)."""
    documents = sample_path("kestrin") / "documents"
    for number, names in enumerate(HALVES):
        tell(f"compiling half {number + 1} of the sample corpus")
        compile_corpus([documents / name for name in names], work / f"half-{number + 1}")
    return work / "half-1", work / "half-2"


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything that was asked for."""
    began = time.process_time()
    torch.set_num_threads(arguments.threads)
    store, other, golden = arguments.store, arguments.other, arguments.golden
    if store is None:
        (store, other), golden = halves(arguments.work), sample_path("kestrin") / "golden.jsonl"
    with Store.open(store) as opened:
        second = None if other is None else Store.open(other)
        world = World(opened, second, load_golden(golden), arguments.questions)
        result = {
            "machine": {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()},
            "versions": {name: version(name) for name in ("atomlora", "torch", "transformers", "peft")},
            "settings": {
                "store": str(store),
                "other": other and str(other),
                "atoms": len(world.atoms),
                "questions": len(world.questions),
                "merge_questions": arguments.merge_questions,
                "tokens": arguments.tokens,
            },
            "recall": list(recall_rows(world, arguments)),
            "off_topic": list(off_topic_rows(world, arguments)),
        }
    return result | {"cpu_seconds": round(time.process_time() - began, 1)}


def show(result: dict[str, Any]) -> None:
    """The figures as tables."""
    print("operator         k  others   run      n  recall  95 %")
    for row in result["recall"]:
        interval = "{:.3f}-{:.3f}".format(*row["interval"])
        kind = f"{row['operator']:13} {row['k']:4}  {row['others']:7}  {row['run']:5}"
        print(f"{kind} {row['n']:4}  {row['recall']:.3f}  {interval}")
    print("\noff topic        k     n      KL  unchanged")
    for row in result["off_topic"]:
        print(f"{row['operator']:13} {row['k']:4}  {row['n']:4}  {row['kl']:.4f}  {row['unchanged']:.3f}")


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--plots", type=Path, help="folder for pictures (needs matplotlib)")
    parser.add_argument("--store", type=Path, help="a compiled store, asked --golden")
    parser.add_argument("--golden", type=Path, help="jsonl of questions, as `atomlora eval` takes them")
    parser.add_argument("--other", type=Path, help="a store of another run, for others that were never in one with it")
    parser.add_argument("--work", type=Path, default=None, help="where the sample's halves lie (default: user's cache)")
    parser.add_argument("--ks", default="2,4,8,16", help="how many atoms are mounted")
    parser.add_argument("--questions", type=int, default=24)
    parser.add_argument("--merge-questions", type=int, default=4, help="questions of ties and dare: each takes 10 s")
    parser.add_argument("--merge-k", type=int, default=8, help="largest k of ties and dare")
    parser.add_argument("--off-topic", type=int, default=20, help=f"general questions, at most {len(UNSEEN_QUESTIONS)}")
    parser.add_argument("--tokens", type=int, default=64, help="most tokens of an answer")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    if (arguments.store is None) != (arguments.golden is None):
        parser.error("--store and --golden belong together")
    try:
        arguments.ks = [int(k) for k in arguments.ks.split(",")]
    except ValueError:
        parser.error(f"--ks {arguments.ks}: give numbers such as 2,4,8")
    if not all(2 <= k <= stacks.MOST_ATOMS for k in arguments.ks):
        parser.error(f"--ks must lie between 2 and {stacks.MOST_ATOMS}")
    for name in ("questions", "merge_questions", "off_topic", "tokens", "threads"):
        if (value := getattr(arguments, name)) < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, not {value}")
    arguments.work = arguments.work or cache_folder() / "bench-interference"
    try:
        result = run(arguments)
    except AtomLoraError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    if arguments.plots is not None:
        plots.plot(result, arguments.plots)
    told(result, arguments.json, show)


if __name__ == "__main__":
    main()
