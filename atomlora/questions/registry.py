"""Which question writer a name stands for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from atomlora.errors import UsageError
from atomlora.questions.cloze import ClozeWriter
from atomlora.questions.types import QuestionWriter
from atomlora.settings import CompileSettings, EndpointSettings

SHIPPED = Path(__file__).parent / "writers" / "smollm2-135m"
_POSSIBLE = "use auto, none, base, http://HOST/v1#MODEL, or a folder written by atomlora.questions.train_writer"
_log = logging.getLogger(__name__)


def needs_base(name: str) -> bool:
    """Whether the writer called `name` runs on the base."""
    return name != "none" and "://" not in name


def writer_for(
    name: str,
    model: Any = None,
    tokenizer: Any = None,
    seed: int = 0,
    *,
    endpoint: EndpointSettings | None = None,
    rounds: int = 1,
    round_trip: bool = False,
) -> QuestionWriter:
    """The writer called `name` on the loaded base `model` with `tokenizer` (where it `needs_base`); `rounds` and
    `round_trip` as in CompileSettings.

    - `auto`: the shipped adapter where the base has the embedded base's shape; an instruct base of a billion parameters
      or so writes itself; else `none` with a logged warning
    - `none`: cloze questions, no model
    - `base`: the base itself: as it is asked where it follows instructions, else few-shot
    - `http://…#MODEL`: a model behind an OpenAI-compatible endpoint, used as `endpoint` says
    - a folder: an adapter trained by train_writer for this base

    Raises UsageError for an unknown name and for a folder whose adapter does not fit the base, QuestionWriterError for
    an endpoint that cannot be used.
    """
    if name == "none":
        return ClozeWriter(rounds)
    if "://" in name:
        from atomlora.questions.remote import EndpointWriter

        return EndpointWriter(name, endpoint, rounds)
    if name not in ("auto", "base") and not Path(name).is_dir():
        raise UsageError(f"--question-writer {name}: unknown; {_POSSIBLE}")
    from atomlora.questions.base import BaseWriter, follows_instructions

    if name == "base":
        return BaseWriter(model, tokenizer, rounds, round_trip)
    from atomlora.questions.adapter import AdapterWriter
    from atomlora.questions.loading import base_shape, read_shape

    if name != "auto":
        return AdapterWriter(model, tokenizer, Path(name), seed, rounds)
    if read_shape(SHIPPED) == base_shape(model.config):
        return AdapterWriter(model, tokenizer, SHIPPED, seed, rounds)
    if follows_instructions(model, tokenizer):
        return BaseWriter(model, tokenizer, rounds, round_trip)
    _log.warning(
        "no trained question writer fits this base: falling back to fill-in-the-blank questions; "
        "--question-writer base lets the base write, URL#MODEL a model behind an address, --questions FILE brings "
        "your own"
    )
    return ClozeWriter(rounds)


def settings_writer(settings: CompileSettings, model: Any = None, tokenizer: Any = None) -> QuestionWriter:
    """The writer that a compile with these settings uses."""
    return writer_for(
        settings.question_writer,
        model,
        tokenizer,
        endpoint=settings.endpoint,
        rounds=settings.question_rounds,
        round_trip=settings.round_trip,
    )
