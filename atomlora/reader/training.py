"""`adapt`: train a reader for a base, by PEFT.

All questions about a text are branches of one packed sequence (`atomlora.packing`), and only answers are in the loss.
The base computes in bfloat16 where the machine multiplies it natively, what is trained is float32.
"""

from __future__ import annotations

import hashlib
import math
import random
import time
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict

from atomlora.atom import digest_json
from atomlora.bases import Base, blocks, linear_layers, load_base
from atomlora.errors import AtomLoraError, InputError, UsageError
from atomlora.packing import Tree, batches, pack_branches, target_nll
from atomlora.quantised import split_name
from atomlora.questions.loading import base_shape
from atomlora.reader.checkpoint import drop_checkpoint, load_checkpoint, save_checkpoint
from atomlora.reader.examples import ReaderExample, by_text, load_examples
from atomlora.reader.folder import RECIPE_FILE, FitsBase, ReaderRecipe, write_folder
from atomlora.reader.prompts import question_ids, short_answer_ids, text_ids
from atomlora.reader.refusals import with_refusals
from atomlora.reader.settings import AdaptSettings

_QUESTIONS_PER_TEXT = 6  # branches of one sequence; a text with more is packed again
_SECONDS_BETWEEN_CHECKPOINTS = 120.0
_BETAS, _WEIGHT_DECAY, _CLIP = (0.9, 0.98), 0.01, 1.0


class AdaptProgress(NamedTuple):
    """Where training stands: share `done` in [0, 1], mean `loss` in nats a token, `seconds` so far."""

    done: float
    steps: int
    loss: float
    seconds: float


class AdaptReport(BaseModel):
    """What was trained. `examples` holds the `unanswerable` ones; `left_out`: texts that were too long with their
    questions."""

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


def adapt(
    data: Path,
    out: Path,
    base: str,
    settings: AdaptSettings | None = None,
    device: str = "auto",
    on_progress: Callable[[AdaptProgress], None] | None = None,
) -> AdaptReport:
    """Train a reader on the examples of `data` (see `atomlora.reader.examples`) and write it to the folder `out`.

    An interrupted run leaves a checkpoint there, at most two minutes old, and is resumed by the same call; `epochs`,
    `steps` and `minutes` may be others then. Raises
    InputError for data that cannot be used, UsageError for settings that the base cannot have and where `out` holds
    something else, BaseModelError, and AtomLoraError where training diverges.
    """
    settings = settings or AdaptSettings()
    examples = with_refusals(list(dict.fromkeys(load_examples(data))), settings.unanswerable, settings.seed)
    require_free(out)
    loaded = load_base(base, device, _training_dtype(base, device))
    recipe_base = FitsBase(name=loaded.name, fingerprint=loaded.fingerprint, shape=base_shape(loaded.model.config))
    trees, left_out = pack_examples(loaded.tokenizer, examples, settings.max_tokens, settings.refusal)
    if not trees:
        raise InputError(f"{data}: every text is longer than {settings.max_tokens} tokens with its questions; cut them")
    torch.manual_seed(settings.seed)
    wrapped = wrap(loaded, settings)
    file = {"file": data.name, "sha256": hashlib.sha256(data.read_bytes()).hexdigest()}
    # How long to train may be changed when a run is resumed; what it trains may not.
    shaping = settings.model_dump(mode="json", exclude={"epochs", "steps", "minutes"})
    identity = digest_json([shaping, file["sha256"], recipe_base.fingerprint])
    end = _Run(wrapped, settings, out, identity).train(trees, on_progress or (lambda _progress: None))
    trained = {
        "examples": len(examples),
        "unanswerable": sum(one.answer is None for one in examples),
        "texts": len(by_text(examples)),
        "left_out": left_out,
        "steps": end.steps,
        "loss": round(end.loss, 4),
        "seconds": round(end.seconds, 1),
    }
    versions = {name: version(name) for name in ("peft", "torch", "transformers")}
    recipe = ReaderRecipe(
        base=recipe_base, settings=settings.model_dump(mode="json"), trained=trained | {"versions": versions}, data=file
    )
    write_folder(out, wrapped, recipe)
    drop_checkpoint(out)
    count = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
    return AdaptReport(reader=str(out), base=base, parameters=count, **trained)


def require_free(out: Path) -> None:
    """UsageError where `out` is anything but new, empty, or an interrupted training."""
    if out.is_dir() and (out / RECIPE_FILE).exists():
        raise UsageError(f"-o {out}: holds a finished reader; name another folder, or remove that one")
    if out.exists() and (
        not out.is_dir() or any(not e.name.lstrip(".").startswith("checkpoint") for e in out.iterdir())
    ):
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


def wrap(base: Base, settings: AdaptSettings) -> Any:
    """The base's model as a PEFT model with a new adapter; UsageError for layers or targets that it has not."""
    from peft import LoraConfig, get_peft_model

    from atomlora.training.shape import late_blocks

    all_blocks = blocks(base.model)
    known = sorted({name.rsplit(".", 1)[-1] for name in linear_layers(all_blocks[0])})
    if missing := [name for name in settings.targets if name not in known]:
        raise UsageError(
            f"--targets {missing[0]}: the base's blocks have no such layer; choose from {', '.join(known)}"
        )
    count = len(all_blocks)
    untyped: Any = LoraConfig  # whose alpha is said to be an integer
    config = untyped(
        r=settings.rank,
        lora_alpha=settings.effective_alpha(),
        target_modules=list(settings.targets),
        layers_to_transform=list(range(count)) if settings.layers == "all" else late_blocks(count, settings.layers),
        layers_pattern="layers",
        use_rslora=settings.method == "rslora",
        use_dora=settings.method == "dora",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PEFT's own use of transformers
        return get_peft_model(base.model, config)


class _Run:
    """The loop over epochs and batches, with what it needs to stop and go on."""

    def __init__(self, wrapped: Any, settings: AdaptSettings, out: Path, identity: str) -> None:
        self.wrapped, self.settings, self.out, self.identity = wrapped, settings, out, identity
        self.model = wrapped.get_base_model()
        self.parameters = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
        self.optimizer = self._optimizer()
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.steps, self.loss, self.seconds, self.place = 0, 0.0, 0.0, (0, 0)

    def train(self, trees: list[Tree], tell: Callable[[AdaptProgress], None]) -> AdaptProgress:
        """Until epochs, steps or minutes are over."""
        self._resume()
        resumed, began, saved = self.seconds, time.monotonic(), time.monotonic()
        device = self.model.device.type
        # Without cache_enabled=False autocast would keep the first step's bfloat16 copies of the adapter for ever.
        mixed = torch.autocast(device, torch.bfloat16, enabled=self.model.dtype == torch.bfloat16, cache_enabled=False)
        self.wrapped.train()
        try:
            with mixed:
                for epoch in range(self.place[0], self.settings.epochs):
                    plan = batches(trees, self.settings.batch_tokens, random.Random(f"{self.settings.seed} {epoch}"))
                    for index in range(self.place[1] if epoch == self.place[0] else 0, len(plan)):
                        done = self._done(epoch, index, len(plan))
                        if done >= 1:
                            return self._progress(1.0)
                        self._step(plan[index], done)
                        self.place, self.seconds = (epoch, index + 1), resumed + time.monotonic() - began
                        tell(self._progress(done))
                        if time.monotonic() - saved > _SECONDS_BETWEEN_CHECKPOINTS:
                            self._save()
                            saved = time.monotonic()
        except KeyboardInterrupt:
            if self.steps:
                self._save()
            raise
        return self._progress(1.0)

    def _step(self, batch: list[Tree], done: float) -> None:
        warm = min(1.0, (self.steps + 1) / self.settings.warmup)
        scale = warm * max(0.01, 0.5 * (1 + math.cos(math.pi * done)))
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * scale
        loss = target_nll(self.model, batch).mean()
        self.optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.parameters.values(), _CLIP)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise AtomLoraError(f"the loss is {value} after {self.steps} steps; give a lower --learning-rate")
        self.optimizer.step()
        self.steps += 1
        self.loss = value if self.steps == 1 else 0.95 * self.loss + 0.05 * value

    def _done(self, epoch: int, index: int, length: int) -> float:
        shares = [(epoch + index / length) / self.settings.epochs]
        if self.settings.steps is not None:
            shares.append(self.steps / self.settings.steps)
        if self.settings.minutes is not None:
            shares.append(self.seconds / 60 / self.settings.minutes)
        return max(shares)

    def _progress(self, done: float) -> AdaptProgress:
        return AdaptProgress(done, self.steps, self.loss, self.seconds)

    def _optimizer(self) -> Any:
        settings: dict[str, Any] = {
            "lr": self.settings.learning_rate,
            "betas": _BETAS,
            "weight_decay": _WEIGHT_DECAY,
        }
        if self.settings.lora_plus is None:
            return torch.optim.AdamW(self.parameters.values(), **settings)
        from peft.optimizers import create_loraplus_optimizer

        ratio = self.settings.lora_plus
        return create_loraplus_optimizer(self.wrapped, torch.optim.AdamW, loraplus_lr_ratio=ratio, **settings)

    def _save(self) -> None:
        state = {"steps": self.steps, "loss": self.loss, "seconds": self.seconds, "place": self.place}
        save_checkpoint(self.out, self.parameters, self.optimizer, state, self.identity)

    def _resume(self) -> None:
        state = load_checkpoint(self.out, self.parameters, self.optimizer, self.identity)
        if state is not None:
            self.steps, self.loss, self.seconds = state["steps"], state["loss"], state["seconds"]
            self.place = (state["place"][0], state["place"][1])


def _training_dtype(base: str, device: str) -> str:
    """bfloat16 on a GPU and on a CPU that multiplies it natively, else float32; that in which it is asked for a
    quantised base, which is made of the rounded weights and would be another base."""
    if split_name(base)[1] is not None:
        return "auto"
    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    on_gpu = device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())
    return "bfloat16" if on_gpu or (probe is not None and probe()) else "float32"
