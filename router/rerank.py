"""The first candidates in the order of a cross-encoder, which reads the question and an atom's text together.

It is slower than everything else in the router by far, and is off unless it is named. Only the order is its: the scores
stay where they were, from the largest down, since gates and confidence are calibrated on scores of their kind.

Source: Nogueira and Cho, Passage Re-ranking with BERT (arXiv 1901.04085).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from atomlora.errors import BaseModelError
from atomlora.router.scores import Candidates

# Candidates that are read; what stands behind them keeps its place
READ = 16


class Reranker:
    """A sentence-transformers CrossEncoder by its folder (or its name, where the hub's cache on this machine holds it),
    loaded when it is first needed. Never uses the network. Thread-safe."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._model: Any = None
        self._lock = threading.Lock()

    def reorder(self, question: str, candidates: Candidates, text_of: Callable[[int], str]) -> Candidates:
        """The candidates with the first `READ` of them in the model's order. Raises BaseModelError where the model
        cannot be loaded, or gives a pair of texts more than one score."""
        many = min(READ, len(candidates.atoms))
        if many < 2:
            return candidates
        pairs = [(question, text_of(int(atom))) for atom in candidates.atoms[:many]]
        with self._lock:
            scores = np.asarray(self._loaded().predict(pairs, show_progress_bar=False))
        if scores.shape != (many,):
            raise BaseModelError(
                f"reranker {self.name!r} gives {scores.shape} scores for {many} pairs of texts; name a cross-encoder "
                "with a single output"
            )
        order = np.concatenate([np.argsort(-scores, kind="stable"), np.arange(many, len(candidates.atoms))])
        late = None if candidates.late is None else candidates.late[order]
        return candidates._replace(
            atoms=candidates.atoms[order],
            dense_max=candidates.dense_max[order],
            dense_mean=candidates.dense_mean[order],
            lexical=candidates.lexical[order],
            late=late,
        )

    def _loaded(self) -> Any:
        if self._model is None:
            from sentence_transformers import CrossEncoder

            try:
                self._model = CrossEncoder(self.name, local_files_only=True, model_kwargs={"use_safetensors": True})
            except (OSError, ValueError) as error:
                reason = str(error).strip().splitlines()[0]
                raise BaseModelError(
                    f"reranker {self.name!r} cannot be loaded ({reason}); name a folder that CrossEncoder.save(...) "
                    "wrote, or route without one"
                ) from error
        return self._model
