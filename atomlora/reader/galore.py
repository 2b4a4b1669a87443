"""Method galore: the base's own weights are trained, with gradients projected to a low rank (GaLore, Zhao et al., arXiv
2403.03507), by the optimizer of the package pytorch_optimizer.

AdamW's two moments are kept of the projected gradient, so that they take the rank's share of a full fine-tuning's
memory; the projection is taken anew from the gradient's singular vectors every `projection_gap` steps.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atomlora.errors import UsageError
from atomlora.quantised import split_name

if TYPE_CHECKING:
    from atomlora.reader.settings import AdaptSettings


def require_galore(base: str, settings: AdaptSettings, start: Path | None) -> None:
    """UsageError where the settings are an adapter's, the base is quantised, or the package is missing."""
    for option, value in (("--alpha", settings.alpha), ("--lora-plus", settings.lora_plus), ("--start", start)):
        if value is not None:
            raise UsageError(f"{option} is an adapter's; leave it out with --method galore")
    if split_name(base)[1] is not None:
        raise UsageError(f"--method galore trains the weights of --base {base}, which are quantised; use lora over it")
    try:
        from pytorch_optimizer.optimizer.galore import GaLore  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "--method galore needs the package pytorch_optimizer; install it with atomlora[galore]"
        ) from error


def galore_optimizer(weights: Iterable[Any], settings: AdaptSettings, betas: tuple[float, float]) -> Any:
    """AdamW over projected gradients of `weights`, each (d_out, d_in). No weight decay: it would draw the base's
    weights to zero, not to what they were."""
    from pytorch_optimizer.optimizer.galore import GaLore

    group = {
        "params": list(weights),
        "rank": settings.rank,
        "update_proj_gap": settings.projection_gap,
        "scale": settings.projection_scale,
        "projection_type": "std",  # on the shorter side
    }
    return GaLore([group], lr=settings.learning_rate, betas=betas, weight_decay=0.0)


def projection_of(state: dict[str, Any]) -> Any:
    """The projection in a weight's optimizer state; None where there is none."""
    projector = state.get("projector")
    return None if projector is None else projector.ortho_matrix


def put_projection(optimizer: Any, weight: Any, projection: Any, steps: int) -> None:
    """Into the optimizer's state of a weight, as it stood after `steps`."""
    from pytorch_optimizer.optimizer.utils.galore import GaLoreProjector

    (group,) = optimizer.param_groups
    group["step"] = steps
    names = ("rank", "update_proj_gap", "scale", "projection_type")
    projector = GaLoreProjector(**{name: group[name] for name in names})
    projector.ortho_matrix = projection
    optimizer.state[weight]["projector"] = projector


def state_bytes(optimizer: Any) -> int:
    """What an optimizer keeps of its parameters, projections included."""
    found = 0
    for state in optimizer.state.values():
        held = [*state.values(), projection_of(state)]
        found += sum(one.numel() * one.element_size() for one in held if isinstance(one, torch.Tensor))
    return found
