"""Which question writer a name stands for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from atomlora.bases import EMBEDDED_HINT, embedded_is_here
from atomlora.errors import UsageError
from atomlora.questions.cloze import ClozeWriter
from atomlora.questions.types import QuestionWriter
from atomlora.settings import CompileSettings, EndpointSettings

SHIPPED = Path(__file__).parent / "writers" / "smollm2-135m"
_POSSIBLE = (
    "use auto, none, base, shipped, http://HOST/v1#MODEL, or a folder written by atomlora.questions.train_writer"
)
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

    - `auto`: an instruct base of a billion parameters or so writes itself; else as `shipped`, or `none` with a logged
      warning where the embedded base is not installed
    - `shipped`: the shipped adapter, on the base where it has the embedded base's shape, else on the embedded base,
      which is loaded beside it
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
    if name not in ("auto", "base", "shipped") and not Path(name).is_dir():
        raise UsageError(f"--question-writer {name}: unknown; {_POSSIBLE}")
    from atomlora.questions.base import BaseWriter, follows_instructions

    if name == "base":
        return BaseWriter(model, tokenizer, rounds, round_trip)
    from atomlora.questions.adapter import AdapterWriter
    from atomlora.questions.loading import base_shape, read_shape

    if name not in ("auto", "shipped"):
        return AdapterWriter(model, tokenizer, Path(name), seed, rounds)
    if read_shape(SHIPPED) == base_shape(model.config):
        return AdapterWriter(model, tokenizer, SHIPPED, seed, rounds)
    if name == "auto" and follows_instructions(model, tokenizer):
        return BaseWriter(model, tokenizer, rounds, round_trip)
    if name == "shipped" or embedded_is_here():
        from atomlora.questions.beside import BesideWriter

        return BesideWriter(SHIPPED, str(model.device), seed, rounds)
    _log.warning(
        "no question writer fits this base: falling back to fill-in-the-blank questions, with which atoms know few "
        "of people's wordings. The shipped writer needs the embedded base: %s. Or --question-writer base lets the base "
        "write, URL#MODEL a model behind an address, and --questions FILE brings your own",
        EMBEDDED_HINT,
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
