"""Which linear layers of a base an atom adapts."""

from __future__ import annotations

from typing import Any

from atomlora.atom import Target
from atomlora.bases import blocks, linear_layers
from atomlora.errors import UsageError
from atomlora.settings import DEFAULT_TARGETS, AdapterSettings

FUSED_TARGETS = ("gate_up_proj", "down_proj")


def late_blocks(count: int, layers: str) -> list[int]:
    """Block numbers that `layers` means in a base of `count` blocks: `late:N`, `late:auto` (the last sixth), or a
    list such as `25,26,27,28,29`. Raises UsageError for anything that does not run without a gap to the last block:
    an atom's trunk is what lies before its first block, and is computed once."""
    if layers == "late:auto":
        return list(range(count - max(1, round(count / 6)), count))
    try:
        if layers.startswith("late:"):
            number = int(layers.removeprefix("late:"))
            chosen = list(range(count - number, count)) if 1 <= number <= count else []
        else:
            chosen = sorted({int(part) for part in layers.split(",")})
    except ValueError:
        chosen = []
    if not chosen or chosen != list(range(chosen[0], count)) or chosen[0] < 0:
        raise UsageError(
            f"--layers {layers}: give late:N with N from 1 to {count}, late:auto, or block numbers without a gap up to "
            f"the last one, {count - 1}"
        )
    return chosen


def resolve_targets(model: Any, settings: AdapterSettings) -> tuple[Target, ...]:
    """The adapted linear layers, block by block; UsageError names the modules there are when one is missing. Where a
    base keeps gate and up in one layer (Phi-3), the default targets mean that one."""
    all_blocks = blocks(model)
    wanted_layers = settings.targets
    if wanted_layers == DEFAULT_TARGETS and linear_layers(all_blocks[-1], FUSED_TARGETS[0]):
        wanted_layers = FUSED_TARGETS
    targets = []
    for layer in late_blocks(len(all_blocks), settings.layers):
        for wanted in wanted_layers:
            found = linear_layers(all_blocks[layer], wanted)
            if len(found) != 1:
                known = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in linear_layers(all_blocks[layer])}))
                raise UsageError(f"--targets {wanted}: the base's blocks have no such layer; choose from {known}")
            ((path, module),) = found.items()
            targets.append(Target(layer=layer, module=path, d_in=module.in_features, d_out=module.out_features))
    return tuple(targets)
