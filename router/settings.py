"""The router's settings."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class RouterSettings(BaseModel):
    """How candidates are found and fused, and when the router keeps silent.

    `top_k`: atoms routed at most. `min_weight`: atoms whose gate is below it are left out (the best one
    stays). `abstain`: whether to return no atom where the confidence is below the calibrated threshold.
    `mean_share`: an atom's dense score is (1 - mean_share) * max + mean_share * mean over its keys.
    `lexical_weight`: fused = dense + lexical_weight * lexical; both parts lie in [-1, 1] and [0, 1].
    `late_weight`: where the store has token states, fused grows by late_weight * late, which lies in [-1, 1].
    It was chosen on people's questions about the sample corpus and about eight SQuAD articles by sentence and
    by passage, of which recall@1 stays within .01 of its best between 1.5 and 3.
    `dense_candidates`/`lexical_candidates`: keys, respectively atoms, that each side puts up for exact
    scoring. `hops`: rounds of routing; more than one follow names from the first atoms to what is said of them
    (see `atomlora.router.hops`). `index`: how keys are searched (see `atomlora.router.index`); auto goes by
    their number. `reranker`: a cross-encoder that orders the first candidates, by name or folder (see
    `atomlora.router.rerank`).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    top_k: int = Field(default=8, ge=1)
    min_weight: float = Field(default=0.05, ge=0.0, le=1.0)
    abstain: bool = True
    mean_share: float = Field(default=0.5, ge=0.0, le=1.0)
    lexical_weight: float = Field(default=0.5, ge=0.0)
    late_weight: float = Field(default=2.0, ge=0.0)
    dense_candidates: int = Field(default=96, ge=1)
    lexical_candidates: int = Field(default=32, ge=0)
    hops: int = Field(default=1, ge=1, le=4)
    reranker: str | None = None
    index: Literal["auto", "flat", "hnsw", "ivf", "ivfpq"] = "auto"
