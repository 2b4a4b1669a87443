"""Where the coefficients of the router's second look come from (`atomlora.router.second_look`).

    python bench/look_fit.py --data DIR [--work DIR] [--base NAME] [--json]

The questions and stores are those of bench/router_fit.py (people's questions about the first sixteen titles of SQuAD,
by sentence, without a generated question), of two stores of eight titles, two of four and one of all: covered ones,
general ones, those about other titles and near misses, weighed as there. A store's confidence is fitted as the product
does. Questions in doubt are then put before the base, and the log-odds of their confidence and their evidence fitted
together. Figures are of titles that this fit did not see: those of a half are judged by a fit to the other's stores.
(The confidence's own coefficients did see them, and what are other titles to one half's stores are the covered ones of
the other's.)
"""

from __future__ import annotations

import os

from beside import beside, told

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from atomlora.bases import EMBEDDED_BASE, Base, cache_folder, load_base
from atomlora.router.confidence import fit_line, scope_logits
from atomlora.router.logistic import calibration_error, fit_logistic, probabilities
from atomlora.router.second_look import READ, UNSURE
from atomlora.runtime.evidence import evidence

fit, rivals = beside("router_fit"), beside("router_rivals")
COVERED, NEAR = 150, 50  # covered questions of a store, and those that are asked without their passage
MARGIN = 0.3  # of the band that is fitted on beyond the one that is looked at, as a share of what is left to 0 and 1
TRIED = {"confidence": (0,), "evidence": (1,), "both": (0, 1)}


class Doubted(NamedTuple):
    """A question in doubt: which of router_fit's KINDS, its store's number, log-odds of the confidence, evidence."""

    kind: int
    store: int
    logit: float
    nats: float


def doubted(data: Path, work: Path, base: Base) -> list[Doubted]:
    """The questions that the scores of their stores leave open, read by the base."""
    sixteen = fit.opened(data, work)
    title_of = sixteen.title_of
    titles = list(dict.fromkeys(title_of.tolist()))
    groups = [titles[:8], titles[8:], titles[:4], titles[8:12], titles]
    rows: list[Doubted] = []
    for number, group in enumerate(groups):
        rows += _of_store(number, np.isin(title_of, group), sixteen, base)
        print(f"stores: {number + 1}/{len(groups)}, {len(rows)} questions in doubt", file=sys.stderr, flush=True)
    return rows


def _of_store(number: int, atoms: np.ndarray, titles: Any, base: Base) -> list[Doubted]:
    asked = fit.asked_of(titles, atoms, COVERED, NEAR)
    vectors, tokens = fit.encoded([question for _, question, _ in asked], titles.embedder)
    scored = [
        titles.scorer.score_batch([question], vectors[at : at + 1], tokens[at : at + 1], world)[0]
        for at, (_, question, world) in enumerate(asked)
    ]
    logits = scope_logits(scored, True)
    general = np.array([kind == 1 for kind, _, _ in asked])
    chances = fit_line(logits[general], True).chances(logits)
    low, high = UNSURE[0] * MARGIN, 1 - (1 - UNSURE[1]) * MARGIN
    open_ones = np.flatnonzero((chances > low) & (chances < high))
    nats = evidence(
        base,
        [asked[at][1] for at in open_ones],
        [[titles.found.documents[int(atom)] for atom in scored[at].atoms[:READ]] for at in open_ones],
    )
    odds = np.log(chances / (1 - chances))
    return [Doubted(asked[at][0], number, float(odds[at]), value) for at, value in zip(open_ones, nats, strict=True)]


def fitted(rows: list[Doubted], columns: tuple[int, ...]) -> dict[str, Any]:
    """Coefficients over some of (log-odds, evidence), and what they reach on the half of the titles not seen."""
    features = np.array([[row.logit, row.nats] for row in rows])[:, columns]
    kinds, stores = np.array([row.kind for row in rows]), np.array([row.store for row in rows])
    weights = fit.balanced(kinds)
    covered, nothing = kinds == 0, np.zeros(len(columns) + 1)
    sure, judged = np.zeros(len(rows)), stores < 4
    for half in (0, 1):
        seen = judged & (stores % 2 != half)
        coefficients = fit_logistic(features[seen], covered[seen], nothing, fit.STRENGTH, weights[seen])
        rest = judged & (stores % 2 == half)
        sure[rest] = probabilities(features[rest], coefficients)
    likely = np.where(covered, sure, 1 - sure)[judged]
    return {
        "coefficients": fit_logistic(features, covered, nothing, fit.STRENGTH, weights).round(3).tolist(),
        "log_loss": float(weights[judged] @ -np.log(likely) / weights[judged].sum()),
        "auroc": {
            name: rivals.roc_area(sure[judged & covered], sure[judged & (kinds == number)])
            for number, name in enumerate(fit.KINDS)
            if number
        },
        "ece": calibration_error(sure[judged & (kinds != 3)], covered[judged & (kinds != 3)]),
    }


def show(result: dict[str, Any]) -> None:
    """The fits, a line each."""
    print(f"questions in doubt: {result['rows']}")
    for name, one in result["fits"].items():
        areas = ", ".join(f"{kind} {value:.3f}" for kind, value in one["auroc"].items())
        print(f"{name}: log loss {one['log_loss']:.4f}; AUROC {areas}; ECE {one['ece']:.3f}; {one['coefficients']}")


def main() -> None:
    """Parse, fit, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder that holds squad/")
    parser.add_argument("--work", type=Path, default=cache_folder() / "bench-router", help="where vectors are kept")
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    arguments.work.mkdir(parents=True, exist_ok=True)
    rows = doubted(arguments.data, arguments.work, load_base(arguments.base, "cpu"))
    counts = np.bincount([row.kind for row in rows], minlength=len(fit.KINDS)).tolist()
    fits = {name: fitted(rows, columns) for name, columns in TRIED.items()}
    told({"rows": dict(zip(fit.KINDS, counts, strict=True)), "fits": fits}, arguments.json, show)


if __name__ == "__main__":
    main()
