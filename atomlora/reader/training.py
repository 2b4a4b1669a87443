"""`adapt`: train a reader for a base, by PEFT as an adapter or by GaLore as a base of its own.

All questions about a text are branches of one packed sequence (`atomlora.packing`), and only answers are in the loss.
The base computes in bfloat16 where the machine multiplies it natively, what is trained is float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from atomlora.atom import digest_json
from atomlora.bases import Base, load_base, native_bfloat16
from atomlora.errors import InputError, UsageError
from atomlora.packing import Tree, pack_branches
from atomlora.quantised import split_name
from atomlora.questions.loading import base_shape
from atomlora.reader.checkpoint import FILE as CHECKPOINT
from atomlora.reader.checkpoint import drop_checkpoint
from atomlora.reader.examples import ReaderExample, by_text, load_examples
from atomlora.reader.folder import (
    RECIPE_FILE,
    FitsBase,
    ReaderFolder,
    ReaderRecipe,
    read_folder,
    require_fit,
    write_folder,
)
from atomlora.reader.galore import require_galore, state_bytes
from atomlora.reader.loop import AdaptProgress, Loop
from atomlora.reader.methods import start_from, trained_adapter, trained_weights, wrap
from atomlora.reader.prompts import question_ids, short_answer_ids, text_ids
from atomlora.reader.refusals import with_refusals
from atomlora.reader.settings import AdaptSettings
from atomlora.reader.whole import write_base

_QUESTIONS_PER_TEXT = 6  # branches of one sequence; a text with more is packed again


class AdaptReport(BaseModel):
    """What was trained. `examples` holds the `unanswerable` ones; `left_out`: texts that were too long with their
    questions; `optimizer_bytes`: what the optimizer kept; `fingerprint`: of the base that method galore made."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    reader: str
    base: str
    examples: int
    unanswerable: int
    texts: int
    left_out: int
    steps: int
    loss: float
    seconds: float
    parameters: int
    optimizer_bytes: int
    fingerprint: str | None = None


def adapt(
    data: Path,
    out: Path,
    base: str,
    settings: AdaptSettings | None = None,
    device: str = "auto",
    on_progress: Callable[[AdaptProgress], None] | None = None,
    start: Path | None = None,
) -> AdaptReport:
    """Train a reader on the examples of `data` (see `atomlora.reader.examples`) and write it to the folder `out`: an
    adapter, or with method galore a base of its own. `start`: a reader's folder, whose adapter is trained further.

    An interrupted run leaves a checkpoint there, at most two minutes old, and is resumed by the same call; `epochs`,
    `steps` and `minutes` may be others then. Raises InputError for data that cannot be used, UsageError for settings
    that the base cannot have and where `out` holds something else, BaseModelError, and AtomLoraError where training
    diverges.
    """
    settings = settings or AdaptSettings()
    whole = settings.method == "galore"
    if whole:
        require_galore(base, settings, start)
    begun = None if start is None else read_folder(start, "--start")
    examples = with_refusals(list(dict.fromkeys(load_examples(data))), settings.unanswerable, settings.seed)
    require_free(out)
    dtype = _training_dtype(base, device)
    loaded = load_base(base, device, "float32" if whole else dtype)
    parent = FitsBase(name=loaded.name, fingerprint=loaded.fingerprint, shape=base_shape(loaded.model.config))
    trees, left_out = pack_examples(loaded.tokenizer, examples, settings.max_tokens, settings.refusal)
    if not trees:
        raise InputError(f"{data}: every text is longer than {settings.max_tokens} tokens with its questions; cut them")
    torch.manual_seed(settings.seed)
    wrapped = None if whole else _adapter(loaded, settings, begun)
    mixed = dtype == "bfloat16"
    learning = trained_weights(loaded, settings, mixed) if wrapped is None else trained_adapter(wrapped, settings)
    file = {"file": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    # How long to train may be changed when a run is resumed; what it trains may not.
    shaping = settings.model_dump(mode="json", exclude={"epochs", "steps", "minutes"})
    identity = digest_json([shaping, file["sha256"], parent.fingerprint, *([begun.digest] if begun else [])])
    end = Loop(learning, settings, out, identity).train(trees, on_progress or (lambda _progress: None))
    trained = {
        "examples": len(examples),
        "unanswerable": sum(one.answer is None for one in examples),
        "texts": len(by_text(examples)),
        "left_out": left_out,
        "steps": end.steps,
        "loss": round(end.loss, 4),
        "seconds": round(end.seconds, 1),
        "optimizer_bytes": state_bytes(learning.optimizer),
    }
    history: dict[str, Any] = {} if begun is None else {"start": {"digest": begun.digest, **begun.recipe.trained}}
    facts = {
        "settings": settings.model_dump(mode="json"),
        "trained": trained | {"versions": _versions(whole)} | history,
    }
    fingerprint = None
    if wrapped is None:
        fingerprint = write_base(
            out, loaded, lambda made: ReaderRecipe(base=made, made_from=parent, data=file, **facts)
        )
    else:
        write_folder(out, wrapped, ReaderRecipe(base=parent, data=file, **facts))
        drop_checkpoint(out)
    count = sum(p.numel() for p in learning.parameters.values())
    return AdaptReport(reader=str(out), base=base, parameters=count, fingerprint=fingerprint, **trained)


def _adapter(base: Base, settings: AdaptSettings, begun: ReaderFolder | None) -> Any:
    """The base as a PEFT model with a new adapter, or with that of a reader."""
    if begun is not None:
        require_fit(begun, base, "--start")
    wrapped = wrap(base, settings)
    if begun is not None:
        start_from(wrapped, settings, begun)
    return wrapped


def _versions(whole: bool) -> dict[str, str]:
    names = ("pytorch_optimizer" if whole else "peft", "torch", "transformers")
    return {name: version(name) for name in names}


def require_free(out: Path) -> None:
    """UsageError where `out` is anything but new, empty, or an interrupted training."""
    if out.is_dir() and (out / RECIPE_FILE).exists():
        raise UsageError(f"-o {out}: holds a finished reader; name another folder, or remove that one")
    begun = (out / CHECKPOINT).exists()  # whatever lies beside it is what was being written when it was stopped
    if out.exists() and (not out.is_dir() or (not begun and any(not e.name.startswith(".") for e in out.iterdir()))):
        raise UsageError(f"-o {out}: holds something else; name a new folder")


def pack_examples(
    tokenizer: Any, examples: Sequence[ReaderExample], max_tokens: int, refusal: str
) -> tuple[list[Tree], int]:
    """One packed sequence for up to six questions of a text, and how many were left out as too long."""
    trees, left_out = [], 0
    for text, asked in by_text(examples):
        prefix = text_ids(tokenizer, text)
        for start in range(0, len(asked), _QUESTIONS_PER_TEXT):
            part = asked[start : start + _QUESTIONS_PER_TEXT]
            said = [refusal if one.answer is None else one.answer for one in part]
            branches = [
                (question_ids(tokenizer, one.question), short_answer_ids(tokenizer, answer))
                for one, answer in zip(part, said, strict=True)
            ]
            tree = pack_branches(prefix, branches)
            if len(tree.ids) <= max_tokens:
                trees.append(tree)
            else:
                left_out += 1
    return trees, left_out


def _training_dtype(base: str, device: str) -> str:
    """bfloat16 on a GPU and on a CPU that multiplies it natively, else float32; that in which it is asked for a
    quantised base, which is made of the rounded weights and would be another base."""
    if split_name(base)[1] is not None:
        return "auto"
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "bfloat16" if on_gpu or native_bfloat16() else "float32"
