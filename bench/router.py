"""How well and how fast the router finds the right atoms, and whether it knows when there are none.

    python bench/router.py [--json] [--plot DIR] [--parts quality,scale] [--data DIR] [--store STORE] [--work DIR]
                           [--second-look]
                           [--sets sample,squad,squad-texts,squad-all,squad-all-unseen,squad-all-texts,tofu,phantomwiki,
                           two-step] [--limit N] [--written N] [--sizes 1000,…,1000000]
                           [--kinds flat,hnsw,ivf,ivfpq] [--build-limit S]

quality: on each set (bench/router_sets.py), next to FAISS Flat over MiniLM vectors of the passages and of the router's
own keys (a flat softmax over its cosines as weights), and BM25 over passages and over atoms. recall@k: a right atom is
among the first k; passage@k: an atom of its passage, or the passage, is. Refusing is measured on as many foreign
questions (half about the real world, half from the other sets) as answerable ones: the router by its own threshold,
the rivals by the threshold that stops 95 % of the general questions, and all of them by the threshold that would have
been best. ECE: of the gates of routed atoms, and of the confidence.

scale: bench/router_scale.py. Real keys are those of the sets that are there, or of the sample corpus.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from beside import beside, told

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import platform
import resource
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from atomlora.bases import EMBEDDED_BASE, cache_folder, load_base
from atomlora.errors import AtomLoraError
from atomlora.metrics import bootstrap_interval
from atomlora.router import GENERAL_QUESTIONS, Router, RouterSettings, fit_calibration, load_embedder
from atomlora.router.logistic import calibration_error
from atomlora.runtime.evidence import evidence
from atomlora.spread import evenly

sets, rivals, scale = beside("router_sets"), beside("router_rivals"), beside("router_scale")
Ranked, TOP = rivals.Ranked, rivals.TOP
PARTS = ("quality", "scale")
ALPHA = 0.05
# Low enough for eight atoms to be ranked; ways of a second round are gone from here on
LEAST_WEIGHT = 0.001


class Routed:
    """The router itself, in the rivals' shape: without silence, so that its ranking shows for every question."""

    passages = False

    def __init__(self, found: Any, inputs: Any, settings: RouterSettings, look: Any = None) -> None:
        self.name = "router" if settings.hops == 1 else f"router-{settings.hops}-hops"
        self.name += "" if look is None else "-looks"
        texts = [text for _, text in found.keys]
        positions = np.array([position for position, _ in found.keys], np.int32)
        questions = {text for atom in found.atoms for text in (question.text for question in atom.questions)}
        cache = inputs.work / f"{sets.corpus_of(found.name)}.tokens"
        how = {"documents": found.documents, "token_cache": cache}
        calibration = fit_calibration(
            inputs.embedder,
            found.embeddings,
            positions,
            texts,
            settings,
            questions=np.array([text in questions for text in texts]),
            alpha=ALPHA,
            **how,
        )
        self.threshold = calibration.threshold
        never = calibration.model_copy(update={"threshold": 0.0})
        open_settings = settings.model_copy(update={"top_k": TOP, "min_weight": LEAST_WEIGHT})
        ids = [atom.id for atom in found.atoms]
        self.router = Router(
            inputs.embedder,
            found.embeddings,
            positions,
            ids,
            texts,
            never,
            open_settings,
            evidence=look,
            **how,
        )
        self._number = {atom_id: number for number, atom_id in enumerate(ids)}

    def rank(self, question: str) -> Any:
        """The route."""
        route = self.router.route(question)
        numbers = [self._number[atom.id] for atom in route.atoms]
        return Ranked(numbers, [atom.weight for atom in route.atoms], route.confidence)

    @property
    def size_bytes(self) -> int:
        """Bytes of the keys' vectors and of the token states."""
        late = self.router.scorer.late
        return int(self.router.scorer.embeddings.nbytes + (late.states.nbytes if late is not None else 0))


def contenders(found: Any, inputs: Any, look: Any) -> list[Any]:
    """The router, with a second look where it has evidence to `look` at, and its rivals over one set."""
    embedder = inputs.embedder
    positions = np.array([position for position, _ in found.keys])
    own = [np.flatnonzero(positions == number) for number in range(len(found.atoms))]
    joined = ["\n".join(found.keys[key][1] for key in some) for some in own]
    passages = sets.embedded(found.passages, inputs, found.name)
    return [
        Routed(found, inputs, RouterSettings()),
        *([] if look is None else [Routed(found, inputs, RouterSettings(), look)]),
        Routed(found, inputs, RouterSettings(hops=2)),
        rivals.FlatCosine("minilm-passages", embedder, passages, np.arange(len(passages)), True),
        rivals.FlatCosine("minilm-keys", embedder, found.embeddings, positions, False),
        rivals.Lexical("bm25-passages", found.passages, True),
        rivals.Lexical("bm25-keys", joined, False),
    ]


def measure(found: Any, foreign: Sequence[str], inputs: Any, look: Any) -> dict[str, Any]:
    """Every contender's figures on one set."""
    many = min(len(found.asked), len(foreign)) if foreign else 0
    foreign = list(foreign)[:many]
    systems, rows = contenders(found, inputs, look), []
    for number, (contender, (ranked, times)) in enumerate(zip(systems, in_turns(systems, found.asked), strict=True)):
        tell(f"{found.name}: {contender.name} ({number + 1}/{len(systems)})")
        row = {"system": contender.name, "unit": "passage" if contender.passages else "atom"}
        row |= recalls(found, contender, ranked) | scale.latencies(times) | {"size_bytes": contender.size_bytes}
        if many:
            inside = [one.sure for one in evenly(ranked, many)]
            outside = [contender.rank(question).sure for question in foreign]
            row["refusing"] = refusing(contender, np.array(inside), np.array(outside))
        rows.append(row)
    return {
        "set": found.name,
        "atoms": len(found.atoms),
        "passages": len(found.passages),
        "keys": len(found.keys),
        "questions": len(found.asked),
        "foreign": many,
        "keys_of_questions": sum(len(atom.questions) for atom in found.atoms),
        "systems": rows,
    }


def in_turns(systems: Sequence[Any], asked: Sequence[Any]) -> list[tuple[list[Any], list[float]]]:
    """What each system makes of every question, and its milliseconds; they take turns question by question."""
    found: list[tuple[list[Any], list[float]]] = [([], []) for _ in systems]
    for contender in systems:
        contender.rank("warm up")
    for one in asked:
        for contender, (ranked, times) in zip(systems, found, strict=True):
            start = time.perf_counter()
            ranked.append(contender.rank(one.question))
            times.append((time.perf_counter() - start) * 1e3)
    return found


def recalls(found: Any, contender: Any, ranked: Sequence[Any]) -> dict[str, Any]:
    """recall@k by atom and by passage, and the calibration error of the weights."""
    row: dict[str, Any] = {}
    for k in (1, 4, TOP):
        by_passage, by_atom = [], []
        for one, result in zip(found.asked, ranked, strict=True):
            first = result.numbers[:k]
            of = set(first) if contender.passages else {int(found.passage_of[number]) for number in first}
            by_passage.append(float(bool(of & one.passages)))
            by_atom.append(float(bool(set(first) & one.atoms)))
        row[f"passage_at_{k}"] = float(np.mean(by_passage))
        if not contender.passages:
            row[f"recall_at_{k}"] = float(np.mean(by_atom))
        if k == 1:
            row["passage_at_1_interval"] = bootstrap_interval(by_passage)
    if not contender.passages and ranked and ranked[0].weights is not None:
        weights = np.array([w for result in ranked for w in result.weights])
        pairs = zip(found.asked, ranked, strict=True)
        right = np.array([number in one.atoms for one, result in pairs for number in result.numbers])
        row["weights_ece"] = calibration_error(weights, right)
    return row


def refusing(contender: Any, inside: np.ndarray, outside: np.ndarray) -> dict[str, float]:
    """Refusing on the half and half mix."""
    if isinstance(contender, Routed):
        threshold = contender.threshold
    else:
        general = np.array([contender.rank(question).sure for question in GENERAL_QUESTIONS])
        threshold = rivals.stopping_threshold(general, ALPHA)
    row = {
        "threshold": threshold,
        **rivals.refusal(inside < threshold, outside < threshold),
        "best_f1": rivals.best_refusal(inside, outside),
        "auroc": rivals.roc_area(inside, outside),
    }
    if isinstance(contender, Routed):
        labels = np.arange(len(inside) + len(outside)) < len(inside)
        row["confidence_ece"] = calibration_error(np.concatenate([inside, outside]), labels)
    return row


def tell(line: str) -> None:
    """Progress goes to stderr."""
    print(line, file=sys.stderr, flush=True)


def evidence_of_base() -> Any:
    """What the embedded base says of questions and texts, for the router's second look."""
    base = load_base(EMBEDDED_BASE, "cpu")
    return lambda questions, texts: evidence(base, questions, texts)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Both parts."""
    torch.set_num_threads(1)
    embedder = load_embedder()
    inputs = sets.Inputs(arguments.data, arguments.store, arguments.work, embedder, arguments.limit, arguments.written)
    found = [sets.SETS[name](inputs) for name in arguments.sets]
    result: dict[str, Any] = {
        "machine": {"cpu": platform.processor() or platform.machine(), "threads": 1, "load": os.getloadavg()},
        "versions": {name: version(name) for name in ("atomlora", "torch", "faiss-cpu", "numpy")},
    }
    if "quality" in arguments.parts:
        data = arguments.data
        foreign = {one.name: sets.foreign_questions(data, found, one.name) if data else [] for one in found}
        look = evidence_of_base() if arguments.second_look else None
        result["quality"] = [measure(one, foreign[one.name], inputs, look) for one in found]
    if "scale" in arguments.parts:
        real, asked = sets.real_keys(found, inputs)
        result["scale"] = scale.measure_scale(real, asked, arguments)
    result["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    return result


def show(result: dict[str, Any]) -> None:
    """The figures as tables."""
    for one in result.get("quality", ()):
        print(
            f"{one['set']}: {one['atoms']} atoms of {one['passages']} passages, {one['keys']} keys "
            f"({one['keys_of_questions']} of them questions), {one['questions']} questions, {one['foreign']} foreign"
        )
        print(
            f"  {'system':>16} {'atom@1':>7} {'@4':>6} {'@8':>6} {'pass.@1':>8} {'@8':>6} {'gates':>6} "
            f"{'refuse F1':>10} {'P':>6} {'R':>6} {'best F1':>8} {'AUROC':>6} {'conf.':>6} {'p50 ms':>7} {'p99':>7}"
        )
        for row in one["systems"]:
            gone = row.get("refusing", {})
            cells = [
                (row.get("recall_at_1"), 7), (row.get("recall_at_4"), 6), (row.get("recall_at_8"), 6),
                (row["passage_at_1"], 8), (row["passage_at_8"], 6), (row.get("weights_ece"), 6), (gone.get("f1"), 10),
                (gone.get("precision"), 6), (gone.get("recall"), 6), (gone.get("best_f1"), 8), (gone.get("auroc"), 6),
                (gone.get("confidence_ece"), 6),
            ]  # fmt: skip
            shown = " ".join(f"{'-':>{width}}" if cell is None else f"{cell:{width}.3f}" for cell, width in cells)
            print(f"  {row['system']:>16} {shown} {row['p50_ms']:7.1f} {row['p99_ms']:7.1f}")
    if "scale" in result:
        scale.show_scale(result["scale"])


def main() -> None:
    """Parse, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--plot", type=Path, metavar="DIR", help="draw the figures into a folder")
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--sets", help=f"of {','.join(sets.SETS)}  [default: all but squad-all…]")
    parser.add_argument("--data", type=Path, help="folder that holds squad/, tofu/, phantomwiki_seed2/ and locality/")
    parser.add_argument("--store", type=Path, help="a store of the sample corpus, for the set sample")
    parser.add_argument("--work", type=Path, default=cache_folder() / "bench-router", help="where vectors are kept")
    parser.add_argument("--limit", type=int, default=300, help="questions of a set, evenly spread")
    parser.add_argument("--second-look", action="store_true", help="the router with the embedded base's evidence too")
    parser.add_argument("--written", type=int, default=2, help="passages of each SQuAD title that get questions")
    parser.add_argument("--sizes", default="1000,10000,100000,1000000", help="numbers of keys of the scale part")
    parser.add_argument("--kinds", default=",".join(scale.KINDS), help="of index, for the scale part")
    parser.add_argument("--build-limit", type=float, default=240.0, help="seconds that building an index may take")
    arguments = parser.parse_args()
    there = [name for name in sets.SETS if (arguments.store if name == "sample" else arguments.data) is not None]
    usual = [name for name in there if not name.startswith("squad-all")]
    arguments.sets = usual if arguments.sets is None else [one for one in arguments.sets.split(",") if one]
    arguments.parts = [one for one in arguments.parts.split(",") if one]
    arguments.kinds = [one for one in arguments.kinds.split(",") if one]
    arguments.sizes = [int(one) for one in arguments.sizes.split(",") if one]
    checked = (
        (arguments.sets, there, "sets"),
        (arguments.parts, PARTS, "parts"),
        (arguments.kinds, scale.KINDS, "kinds"),
    )
    for names, known, option in checked:
        if unknown := [name for name in names if name not in known]:
            parser.error(f"--{option} {unknown[0]}: use {', '.join(known) or 'none'} (sets need --data or --store)")
    arguments.work.mkdir(parents=True, exist_ok=True)
    try:
        result = run(arguments)
    except AtomLoraError as error:
        parser.exit(error.exit_code, f"Error: {error}\n")
    if arguments.plot is not None:
        beside("router_plots").plot(result, arguments.plot)
    told(result, arguments.json, show)


if __name__ == "__main__":
    main()
