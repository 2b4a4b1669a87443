"""Where the coefficients come from that the confidence of every store begins from (`atomlora.router.features`).

    python bench/router_fit.py --data DIR [--work DIR] [--json]

On people's questions about the first sixteen titles of SQuAD's development set, by sentence and without a generated
question: two stores of eight titles and sixteen of one, for a store's size moves every score. Against the questions
that a store covers stand general questions and questions about titles that it does not hold, in equal parts, and for
3 % near misses: the covered questions, asked of the store without the passage that they are about. More of them would
tell them better (area under the ROC curve on unseen titles: .866 with none, .880, .890 with a tenth), but make of the
confidence less of a probability where foreign questions are of other topics (its calibration error there: .006, .015,
.029). Covered and foreign questions weigh the same.

Each figure is of titles that its fit did not see: those of the first eight are judged by a fit to the others, and the
other way round. The coefficients are of a fit to all. The other eight titles of the file take no part.
"""

from __future__ import annotations

import os

from beside import beside

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atomlora.bases import cache_folder
from atomlora.router import GENERAL_QUESTIONS, RouterSettings, load_embedder
from atomlora.router.embedder import encode_questions
from atomlora.router.features import PEOPLE_ALPHAS, scope_features
from atomlora.router.late import open_late
from atomlora.router.logistic import fit_logistic, probabilities
from atomlora.router.scores import Candidates, Scorer
from atomlora.spread import evenly

sets, rivals = beside("router_sets"), beside("router_rivals")
TITLES = slice(0, 16)
GROUP = 8
COVERED = {GROUP: 300, 1: 40}  # questions of a store, evenly spread, by its number of titles
FOREIGN_TITLES = 80  # questions of a store about other titles
KINDS = ("covered", "general", "other titles", "near misses")
SHARES = (1.0, 0.485, 0.485, 0.03)  # of the weight of covered questions, and of that of foreign ones
STRENGTH = 1.0  # pull of coefficients towards 0
TRIED = (2, 3)  # features: without the first atom's gate, and with it


class Store(NamedTuple):
    """Atoms of the sixteen titles (bool mask), of how many titles, and which half of them it belongs to."""

    atoms: np.ndarray
    titles: int
    half: int


class Row(NamedTuple):
    """A question asked of a store: which of KINDS, the half of the titles that it is judged with, its scores with late
    interaction and without."""

    kind: int
    half: int
    late: Candidates
    plain: Candidates


class Titles(NamedTuple):
    """The sixteen titles as one set, its scorer with late interaction, and each atom's title."""

    found: Any
    scorer: Scorer
    embedder: Any
    title_of: np.ndarray


def opened(data: Path, work: Path) -> Titles:
    """The titles with their vectors and token states, which are kept below `work`."""
    inputs = sets.Inputs(data, None, work, load_embedder(), sys.maxsize, 0)
    found = sets.squad_set(inputs, "squad-fit", TITLES, 0)
    scorer = Scorer(
        found.embeddings,
        np.array([position for position, _ in found.keys], np.int32),
        [text for _, text in found.keys],
        len(found.atoms),
        RouterSettings(),
        late=open_late(inputs.embedder, found.documents, work / "squad-fit.tokens"),
    )
    return Titles(found, scorer, inputs.embedder, np.array([atom.title for atom in found.atoms]))


def asked_of(titles: Titles, atoms: np.ndarray, covered: int, near: int) -> list[tuple[int, str, Any]]:
    """(which of KINDS, question, the world in which it is asked) of a store of these atoms (bool mask): so many covered
    questions, all general ones, FOREIGN_TITLES about other titles, and `near` of the covered ones as near misses."""
    found, scorer = titles.found, titles.scorer
    inside = evenly([one for one in found.asked if atoms[list(one.atoms)].all()], covered)
    outside = evenly([one for one in found.asked if not atoms[list(one.atoms)].any()], FOREIGN_TITLES)
    whole = scorer.world(atoms, atoms)
    asked = [
        *((0, one.question, whole) for one in inside),
        *((1, question, whole) for question in GENERAL_QUESTIONS),
        *((2, one.question, whole) for one in outside),
    ]
    for passage, some in groupby(evenly(inside, near), key=lambda one: one.passages):
        rest = atoms & ~np.isin(found.passage_of, list(passage))
        asked += [(3, one.question, scorer.world(rest, rest)) for one in some]
    return asked


def rows_of(data: Path, work: Path) -> list[Row]:
    """The questions, asked of their stores."""
    sixteen = opened(data, work)
    title_of = sixteen.title_of
    titles = list(dict.fromkeys(title_of.tolist()))
    groups = [titles[:GROUP], titles[GROUP:], *([title] for title in titles)]
    rows: list[Row] = []
    for number, group in enumerate(groups):
        store = Store(np.isin(title_of, group), len(group), int(titles.index(group[0]) >= GROUP))
        rows += store_rows(store, sixteen)
        print(f"stores: {number + 1}/{len(groups)}", file=sys.stderr, flush=True)
    return rows


def store_rows(store: Store, titles: Titles) -> list[Row]:
    """What a store makes of each question."""
    covered = COVERED[store.titles]
    asked = asked_of(titles, store.atoms, covered, covered)
    vectors, tokens = encoded([question for _, question, _ in asked], titles.embedder)
    rows = []
    for at, (kind, question, world) in enumerate(asked):
        one = slice(at, at + 1)
        pair = [titles.scorer.score_batch([question], vectors[one], states, world)[0] for states in (tokens[one], ())]
        rows.append(Row(kind, store.half, *pair))
    return rows


_KNOWN: dict[str, tuple[np.ndarray, Any]] = {}


def encoded(questions: Sequence[str], embedder: Any) -> tuple[np.ndarray, list[Any]]:
    """Vectors and token states; a question is asked of several stores, and encoded once."""
    if missing := [q for q in dict.fromkeys(questions) if q not in _KNOWN]:
        vectors, tokens = encode_questions(embedder, missing)
        _KNOWN.update(zip(missing, zip(vectors, tokens, strict=True), strict=True))
    return np.array([_KNOWN[q][0] for q in questions]), [_KNOWN[q][1] for q in questions]


def balanced(kinds: np.ndarray) -> np.ndarray:
    """Weights (n,) by which each of KINDS has its share of SHARES, 1 in the mean."""
    weights: np.ndarray = np.array(SHARES)[kinds] / np.bincount(kinds)[kinds]
    return weights * len(kinds) / weights.sum()


def fitted(rows: Sequence[Row], part: str, count: int) -> dict[str, Any]:
    """Coefficients over the first `count` features of the candidates in `part`, and what they reach on titles not
    seen."""
    features = np.array([scope_features(getattr(row, part))[:count] for row in rows])
    kinds, halves = np.array([row.kind for row in rows]), np.array([row.half for row in rows])
    weights = balanced(kinds)
    covered, nothing = kinds == 0, np.zeros(count + 1)
    sure = np.zeros(len(rows))
    for half in (0, 1):
        seen = halves != half
        found = fit_logistic(features[seen], covered[seen], nothing, STRENGTH, weights[seen])
        sure[~seen] = probabilities(features[~seen], found)
    likely = np.where(covered, sure, 1 - sure)
    return {
        "scores": part,
        "features": count,
        "coefficients": fit_logistic(features, covered, nothing, STRENGTH, weights).round(2).tolist(),
        "people": np.quantile(sure[covered], PEOPLE_ALPHAS).round(4).tolist(),
        "log_loss": float(weights @ -np.log(likely) / weights.sum()),
        "auroc": {name: rivals.roc_area(sure[covered], sure[kinds == n]) for n, name in enumerate(KINDS) if n},
    }


def main() -> None:
    """Parse, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds squad/")
    parser.add_argument("--work", type=Path, default=cache_folder() / "bench-router", help="where vectors are kept")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = rows_of(arguments.data, arguments.work)
    fits = [fitted(rows, part, count) for part in ("late", "plain") for count in TRIED]
    if arguments.json:
        counts = np.bincount([row.kind for row in rows]).tolist()
        print(json.dumps({"rows": dict(zip(KINDS, counts, strict=True)), "alphas": PEOPLE_ALPHAS, "fits": fits}))
        return
    for fit in fits:
        areas = ", ".join(f"{name} {value:.4f}" for name, value in fit["auroc"].items())
        print(f"{fit['scores']}, {fit['features']} features: log loss {fit['log_loss']:.4f}; AUROC {areas}")
        print(f"  coefficients {fit['coefficients']}, people's confidence at {PEOPLE_ALPHAS}: {fit['people']}")


if __name__ == "__main__":
    main()
