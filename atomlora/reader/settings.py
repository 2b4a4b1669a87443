"""Settings of a reader's training, frozen; they are saved beside the adapter."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from atomlora.settings import Settings

ALL_LINEAR = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class AdaptSettings(Settings):
    """How a reader is trained.

    `method`: LoRA (arXiv 2106.09685), rsLoRA (2312.03732: alpha over the root of the rank) or DoRA (2402.09353), as
    PEFT has them, or GaLore (2403.03507), which trains the base's own weights. `rank`: the adapter's, or that to which
    GaLore projects gradients; it projects along other directions every `projection_gap` steps, and multiplies what
    comes back by `projection_scale`. `alpha` is twice the rank where it is None. `layers`: `all`, `late:N` (the last N
    blocks), or block numbers up to the last. `lora_plus`: B's learning rate over A's (LoRA+, 2402.12354); None is plain
    AdamW.

    `epochs` passes, `steps` or `minutes`, whichever ends first; the learning rate warms up over `warmup` steps and
    follows a cosine to the nearest end. `batch_tokens`: a step's tokens; texts of more than `max_tokens` with their
    questions are left out. `unanswerable`: share of questions that the text does not answer, filled up from other
    texts' questions where the data has fewer (see `atomlora.reader.refusals`); the reader is trained to say `refusal`
    to them.
    """

    method: Literal["lora", "rslora", "dora", "galore"] = "lora"
    rank: int = Field(16, ge=1, le=256)
    alpha: float | None = Field(None, gt=0)
    layers: str = "all"
    targets: tuple[str, ...] = ALL_LINEAR
    learning_rate: float = Field(5e-4, gt=0)
    lora_plus: float | None = Field(None, ge=1)
    projection_gap: int = Field(50, ge=1)
    projection_scale: float = Field(0.25, gt=0)
    epochs: int = Field(3, ge=1)
    steps: int | None = Field(None, ge=1)
    minutes: float | None = Field(None, gt=0)
    batch_tokens: int = Field(1536, ge=64)
    max_tokens: int = Field(512, ge=32)
    warmup: int = Field(15, ge=1)
    unanswerable: float = Field(0.0, ge=0, le=0.75)
    refusal: str = Field("?", min_length=1)
    seed: int = 0

    def effective_alpha(self) -> float:
        """Alpha as PEFT gets it."""
        return 2.0 * self.rank if self.alpha is None else self.alpha
