"""The shipped question writer for a base that it does not fit: on the embedded base, beside the user's.

Questions are text, so whoever wrote them, any base can be trained on them. The embedded base is small (half a GB in
float32) and is held only while questions are written.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from atomlora.bases import EMBEDDED_BASE, EMBEDDED_SHA256, load_base
from atomlora.questions.adapter import AdapterWriter, fast_dtype, writer_digest
from atomlora.questions.loading import read_deltas
from atomlora.questions.types import AtomText, Question

_log = logging.getLogger(__name__)


class BesideWriter:
    """An AdapterWriter on the embedded base, which is loaded on `device` at the first `write` and dropped by `close`.
    Raises CorruptStoreError for a damaged adapter."""

    name = "shipped"
    of_base = False

    def __init__(self, adapter_dir: Path, device: str, seed: int = 0, rounds: int = 1) -> None:
        import torch

        self.adapter_dir, self.device, self.seed, self.rounds = adapter_dir, device, seed, rounds
        own = torch.bfloat16 if device.startswith("cuda") else torch.float32  # as load_base chooses
        written = writer_digest(read_deltas(adapter_dir)[1], seed, fast_dtype(device, own), rounds)
        self.digest = hashlib.sha256(f"{written} {EMBEDDED_SHA256}".encode()).hexdigest()
        self._writer: AdapterWriter | None = None

    def close(self) -> None:
        """Free the embedded base and what was merged into it; the next `write` loads it anew."""
        self._writer = None

    def write(
        self,
        atoms: Sequence[AtomText],
        max_questions: int = 8,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[list[Question]]:
        """As AdapterWriter.write. Raises BaseModelError where the embedded base cannot be loaded."""
        return self._loaded().write(atoms, max_questions, progress)

    def _loaded(self) -> AdapterWriter:
        if self._writer is None:
            _log.warning(
                "no question writer was trained for this base: the shipped one writes, on %s beside it; "
                "--question-writer base lets the base itself write, URL#MODEL a model behind an address",
                EMBEDDED_BASE,
            )
            base = load_base(EMBEDDED_BASE, self.device)
            self._writer = AdapterWriter(base.model, base.tokenizer, self.adapter_dir, self.seed, self.rounds)
        return self._writer
