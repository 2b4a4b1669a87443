"""Which question writer a name stands for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from atomlora.errors import UsageError
from atomlora.questions.cloze import ClozeWriter
from atomlora.questions.types import QuestionWriter

SHIPPED = Path(__file__).parent / "writers" / "smollm2-135m"
_POSSIBLE = "use auto, none, base, or a folder written by atomlora.questions.train_writer"
_log = logging.getLogger(__name__)


def needs_base(name: str) -> bool:
    """Whether the writer called `name` runs on the base."""
    return name != "none" and "://" not in name


def writer_for(name: str, model: Any = None, tokenizer: Any = None, seed: int = 0) -> QuestionWriter:
    """The writer called `name` on the loaded base `model` with `tokenizer` (where it `needs_base`).

    - `auto`: the shipped adapter where the base has the embedded base's shape, else `none` with a logged
    warning
    - `none`: cloze questions, no model
    - `base`: the base itself, few-shot
    - a folder: an adapter trained by train_writer for this base

    Raises UsageError for an unknown name, for a URL, and for a folder whose adapter does not fit the base.
    """
    if name == "none":
        return ClozeWriter()
    if "://" in name:
        raise UsageError(f"--question-writer {name}: writers behind a URL are not supported yet; {_POSSIBLE}")
    if name not in ("auto", "base") and not Path(name).is_dir():
        raise UsageError(f"--question-writer {name}: unknown; {_POSSIBLE}")
    if name == "base":
        from atomlora.questions.base import BaseWriter

        return BaseWriter(model, tokenizer)
    from atomlora.questions.adapter import AdapterWriter
    from atomlora.questions.loading import base_shape, read_shape

    if name != "auto":
        return AdapterWriter(model, tokenizer, Path(name), seed)
    if read_shape(SHIPPED) == base_shape(model.config):
        return AdapterWriter(model, tokenizer, SHIPPED, seed)
    _log.warning(
        "no trained question writer fits this base: falling back to fill-in-the-blank questions; "
        "--question-writer base lets the base write, --questions FILE brings your own"
    )
    return ClozeWriter()
