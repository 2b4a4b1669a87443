"""What each method trains of a base, and by which optimizer: an adapter of PEFT's, or the base's own weights."""

from __future__ import annotations

import warnings
from typing import Any

import torch

from atomlora.bases import Base, blocks, linear_layers
from atomlora.errors import UsageError
from atomlora.reader.folder import ADAPTER_FILE, ReaderFolder
from atomlora.reader.galore import galore_optimizer
from atomlora.reader.loop import Trained
from atomlora.reader.settings import AdaptSettings
from atomlora.training.shape import late_blocks

_BETAS, _WEIGHT_DECAY = (0.9, 0.98), 0.01


def trained_adapter(wrapped: Any, settings: AdaptSettings) -> Trained:
    """A PEFT model's new adapter, by AdamW or LoRA+."""
    model = wrapped.get_base_model()
    parameters = {name: p for name, p in wrapped.named_parameters() if p.requires_grad}
    how: dict[str, Any] = {"lr": settings.learning_rate, "betas": _BETAS, "weight_decay": _WEIGHT_DECAY}
    if settings.lora_plus is None:
        optimizer: Any = torch.optim.AdamW(parameters.values(), **how)
    else:
        from peft.optimizers import create_loraplus_optimizer

        optimizer = create_loraplus_optimizer(wrapped, torch.optim.AdamW, loraplus_lr_ratio=settings.lora_plus, **how)
    return Trained(model, parameters, optimizer, model.dtype == torch.bfloat16)


def trained_weights(base: Base, settings: AdaptSettings, mixed: bool) -> Trained:
    """The weights of the chosen linear layers of a base in float32, by GaLore."""
    chosen, targets = chosen_blocks(base, settings), set(settings.targets)
    parameters = {
        f"{number}.{path}.weight": module.weight.requires_grad_(True)
        for number in chosen
        for path, module in linear_layers(blocks(base.model)[number]).items()
        if path.rsplit(".", 1)[-1] in targets
    }
    return Trained(base.model, parameters, galore_optimizer(parameters.values(), settings, _BETAS), mixed)


def wrap(base: Base, settings: AdaptSettings) -> Any:
    """The base's model as a PEFT model with a new adapter; UsageError for layers or targets that it has not."""
    from peft import LoraConfig, get_peft_model

    untyped: Any = LoraConfig  # whose alpha is said to be an integer
    config = untyped(
        r=settings.rank,
        lora_alpha=settings.effective_alpha(),
        target_modules=list(settings.targets),
        layers_to_transform=chosen_blocks(base, settings),
        layers_pattern="layers",
        use_rslora=settings.method == "rslora",
        use_dora=settings.method == "dora",
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of PEFT's own use of transformers
        return get_peft_model(base.model, config)


def start_from(wrapped: Any, settings: AdaptSettings, folder: ReaderFolder) -> None:
    """Give a new adapter the weights of a reader's; UsageError where that is of another make."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    theirs = AdaptSettings.model_validate(folder.recipe.settings)
    for name in ("method", "rank", "effective_alpha", "layers", "targets"):
        its, own = (value() if callable(value := getattr(one, name)) else value for one in (theirs, settings))
        if its != own:
            option = name.removeprefix("effective_")
            shown = ",".join(its) if isinstance(its, tuple) else f"{its:g}" if isinstance(its, float) else its
            raise UsageError(f"--start {folder.path}: goes on with --{option} {shown} only, as it was trained")
    set_peft_model_state_dict(wrapped, load_file(folder.path / ADAPTER_FILE))


def chosen_blocks(base: Base, settings: AdaptSettings) -> list[int]:
    """Numbers of the blocks that are trained; UsageError for layers or targets that the base has not."""
    all_blocks = blocks(base.model)
    known = sorted({name.rsplit(".", 1)[-1] for name in linear_layers(all_blocks[0])})
    if missing := [name for name in settings.targets if name not in known]:
        raise UsageError(
            f"--targets {missing[0]}: the base's blocks have no such layer; choose from {', '.join(known)}"
        )
    count = len(all_blocks)
    return list(range(count)) if settings.layers == "all" else late_blocks(count, settings.layers)
