"""The loop of `adapt`: steps over packed texts, with AdamW or what a method brings, that can be stopped and resumed."""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from atomlora.errors import AtomLoraError
from atomlora.packing import Tree, batches, target_nll
from atomlora.reader.checkpoint import load_checkpoint, save_checkpoint
from atomlora.reader.settings import AdaptSettings

_SECONDS_BETWEEN_CHECKPOINTS = 120.0
_CLIP = 1.0


class AdaptProgress(NamedTuple):
    """Where training stands: share `done` in [0, 1], mean `loss` in nats a token, `seconds` so far."""

    done: float
    steps: int
    loss: float
    seconds: float


class Trained(NamedTuple):
    """What is trained: a causal LM, its `parameters` that learn, by name and in float32, and their `optimizer`.
    `mixed`: whether products are computed in bfloat16."""

    model: Any
    parameters: dict[str, Any]
    optimizer: Any
    mixed: bool


class Loop:
    """Over epochs and batches, with what it needs to stop and go on."""

    def __init__(self, trained: Trained, settings: AdaptSettings, out: Path, identity: str) -> None:
        self.model, self.parameters, self.optimizer, self.mixed = trained
        self.settings, self.out, self.identity = settings, out, identity
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.steps, self.loss, self.seconds, self.place = 0, 0.0, 0.0, (0, 0)

    def train(self, trees: list[Tree], tell: Callable[[AdaptProgress], None]) -> AdaptProgress:
        """Until epochs, steps or minutes are over."""
        self._resume()
        resumed, began, saved = self.seconds, time.monotonic(), time.monotonic()
        self.model.train()
        try:
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
        # The forward alone: GaLore's step has products too, which stay in float32. And without cache_enabled=False the
        # first step's bfloat16 copies of what is trained would be kept for ever.
        device = self.model.device.type
        with torch.autocast(device, torch.bfloat16, enabled=self.mixed, cache_enabled=False):
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

    def _save(self) -> None:
        state = {"steps": self.steps, "loss": self.loss, "seconds": self.seconds, "place": self.place}
        save_checkpoint(self.out, self.parameters, self.optimizer, state, self.identity)

    def _resume(self) -> None:
        state = load_checkpoint(self.out, self.parameters, self.optimizer, self.identity)
        if state is not None:
            self.steps, self.loss, self.seconds = state["steps"], state["loss"], state["seconds"]
            self.place = (state["place"][0], state["place"][1])
