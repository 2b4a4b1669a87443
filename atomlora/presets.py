"""Named sets of compile settings, for those who want to choose between seconds and recall without knowing the rest.

What each brought on the sample corpus stands in bench/RESULTS.md. `balanced` is the defaults.
"""

from __future__ import annotations

from typing import Any, Literal

from atomlora.settings import CompileSettings, TrainSettings

Preset = Literal["fast", "balanced", "thorough"]

_CHANGES: dict[Preset, dict[str, Any]] = {
    # Fewer questions, and training stops as soon as an answer is greedy with little to spare.
    "fast": {"max_questions": 3, "train": TrainSettings(pass_probability=0.6, max_steps=40, decay_steps=20)},
    "balanced": {},
    # A second round of questions as keys for the router, and training goes on to a wider margin.
    "thorough": {
        "question_rounds": 2,
        "round_trip": True,
        "train": TrainSettings(pass_probability=0.9, max_steps=90, decay_steps=45, rows_per_step=3),
    },
}


def preset_changes(name: Preset) -> dict[str, Any]:
    """The fields of CompileSettings that a preset sets otherwise than the defaults."""
    return dict(_CHANGES[name])


def preset(name: Preset) -> CompileSettings:
    """The settings of a preset."""
    return CompileSettings(**preset_changes(name))
