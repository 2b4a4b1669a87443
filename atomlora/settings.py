"""Settings of a compile run, frozen; the effective values are saved in the store's manifest."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from atomlora.atom import digest_json
from atomlora.conflicts.records import OnConflict

PROCEDURE = 4  # part of every recipe: raise it when the same settings would train other weights
DEFAULT_TARGETS = ("gate_proj", "up_proj", "down_proj")


class Settings(BaseModel):
    """Frozen, unknown keys forbidden."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class AdapterSettings(Settings):
    """Shape of an atom's adapter. `layers`: `late:N` (the last N blocks; `late:auto` is a sixth of them) or a
    comma-separated list of block numbers; they must reach to the last block without a gap for scope `answer`."""

    rank: int = Field(4, ge=1, le=64)
    alpha: float = Field(8.0, gt=0)
    layers: str = "late:auto"
    targets: tuple[str, ...] = DEFAULT_TARGETS
    scope: Literal["answer"] = "answer"


class TrainSettings(Settings):
    """How atoms are trained.

    Learning rates are Adam's and fall linearly over `decay_steps`, but not below `learning_rate_floor` of themselves;
    B's is larger than A's after LoRA+ (arXiv 2402.12354). They are the embedded base's, and other bases' in proportion
    (`atomlora.training.pace`). A token of an answer leaves the loss when its probability
    passes `pass_probability` (MemFT; p > 0.5 suffices for greedy recall, the rest is margin for other wordings of the
    question). Each step an atom sees `rows_per_step` of its questions, with probability `mixed_visibility` at an own
    weight from [own_weight_min, 1] and beside up to `max_distractors` atoms of the frozen pool at weights from
    [0, 1], and `silence_rows` rows of the silence bank, weighed by `silence_weight`. Every `refresh_every` steps the
    full head renews the candidate tokens. A is learnt in coordinates that whiten the inputs, with `damping` (see
    `atomlora.training.whitening`; None: as they are).
    """

    learning_rate_a: float = Field(6e-3, gt=0)
    learning_rate_b: float = Field(2.4e-2, gt=0)
    learning_rate_floor: float = Field(0.2, gt=0, le=1)
    decay_steps: int = Field(30, ge=1)
    max_steps: int = Field(60, ge=1)
    rows_per_step: int = Field(2, ge=1)
    refresh_every: int = Field(4, ge=1)
    pass_probability: float = Field(0.8, gt=0, lt=1)
    own_weight_min: float = Field(0.7, gt=0, le=1)
    max_distractors: int = Field(3, ge=0)
    mixed_visibility: float = Field(0.7, ge=0, le=1)
    silence_rows: int = Field(1, ge=0)
    silence_weight: float = Field(0.3, ge=0)
    silence_gate_max: float = Field(0.5, ge=0, le=1)
    silence_at_full_gate: float = Field(0.2, ge=0, le=1)
    silence_tokens: int = Field(6, ge=1)
    pool_atoms: int = Field(24, ge=0)
    damping: float | None = Field(1.0, gt=0)

    @property
    def silent(self) -> bool:
        """Whether silence is trained at all."""
        return bool(self.silence_rows and self.silence_weight)


class BehaviourSettings(Settings):
    """How behaviour atoms are trained, where it is otherwise than knowledge atoms: `rows_per_step` examples a step, up
    to `max_steps` steps over which learning rates fall; `silence_rows` rows of the silence bank a step where a file
    has examples to be left alone."""

    rank: int = Field(8, ge=1, le=64)
    max_steps: int = Field(120, ge=1)
    rows_per_step: int = Field(12, ge=1)
    silence_rows: int = Field(16, ge=1)
    silence_weight: float = Field(8.0, ge=0)
    learning_rate_scale: float = Field(0.3, gt=0)
    pass_probability: float = Field(0.8, gt=0, lt=1)


class InterferenceSettings(Settings):
    """What is measured of every atom at the end of a compile run: beside how many of its nearest neighbours in the
    router's space (0: nothing), and on how many of its statements."""

    neighbours: int = Field(8, ge=0)
    probes: int = Field(2, ge=1)


class EndpointSettings(Settings):
    """How a question writer behind an address is used: up to `concurrency` requests at a time and
    `requests_per_minute` (None: as they come); each waits `timeout_s` seconds for its answer and is tried `attempts`
    times, with pauses that double from `backoff_s` seconds unless the server says how long."""

    concurrency: int = Field(4, ge=1, le=256)
    requests_per_minute: float | None = Field(None, gt=0)
    timeout_s: float = Field(60.0, gt=0)
    attempts: int = Field(5, ge=1)
    backoff_s: float = Field(1.0, gt=0)


class CompileSettings(Settings):
    """Everything that decides what a compile run produces, and how much memory it may take.

    `storage`: how new atoms' weights lie in the store; int8 takes half of bf16. `on_conflict` is what asking does by
    default where a question is routed to atoms that contradict each other. `question_rounds`: how often a text is
    asked about, up to `max_questions` questions each time, always about something else; `round_trip`: whether an
    instruct base that writes must also answer its questions from the text as it should. `one_adapter`: whether the
    baseline of one adapter for everything is trained too. `auto_rank`: the run chooses `adapter.rank`, by its
    longest atom (`atomlora.compiler.rank`).
    """

    adapter: AdapterSettings = AdapterSettings()
    auto_rank: bool = False
    train: TrainSettings = TrainSettings()
    question_writer: str = "auto"
    endpoint: EndpointSettings = EndpointSettings()
    max_questions: int = Field(6, ge=1, le=64)
    question_rounds: int = Field(1, ge=1, le=5)
    round_trip: bool = False
    slots: int = Field(24, ge=1)
    embedder: str = "minilm"
    on_conflict: OnConflict = "warn"
    reader: str = "auto"
    behaviour: BehaviourSettings = BehaviourSettings()
    one_adapter: bool = False
    interference: InterferenceSettings = InterferenceSettings()
    storage: Literal["bf16", "int8"] = "bf16"

    def recipe(self) -> str:
        """Digest of what shapes an atom's training (batch size, router, storage and what is measured do not)."""
        return digest_json([PROCEDURE, self.adapter.model_dump(mode="json"), self.train.model_dump(mode="json")])
