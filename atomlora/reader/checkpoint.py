"""What an interrupted training leaves and takes up again: parameters, AdamW's moments, GaLore's projections and where
it stood, in one file that is replaced whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from atomlora.errors import CorruptStoreError, UsageError
from atomlora.reader.files import write_tensors
from atomlora.reader.galore import projection_of, put_projection

FILE = "checkpoint.safetensors"
_MOMENTS = ("exp_avg", "exp_avg_sq", "step")


def save_checkpoint(
    folder: Path, parameters: dict[str, Any], optimizer: Any, state: dict[str, Any], identity: str
) -> None:
    """Replace the folder's checkpoint. `parameters`: {name: tensor} of what is trained; `identity`: digest of the
    settings and the data; `state`: plain values. AtomLoraError where it cannot be written."""

    tensors = {f"parameter.{name}": tensor.detach().contiguous() for name, tensor in parameters.items()}
    for name, tensor in parameters.items():
        for moment, value in optimizer.state.get(tensor, {}).items():
            if moment in _MOMENTS:
                tensors[f"{moment}.{name}"] = value.detach().contiguous()
        if (projection := projection_of(optimizer.state.get(tensor, {}))) is not None:
            tensors[f"projection.{name}"] = projection.contiguous()
    write_tensors(folder / FILE, tensors, {"state": json.dumps(state), "identity": identity})


def load_checkpoint(folder: Path, parameters: dict[str, Any], optimizer: Any, identity: str) -> dict[str, Any] | None:
    """Put the folder's checkpoint into parameters and optimizer; its state, or None where there is none. UsageError
    where it belongs to other settings or data."""
    import torch
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file, torch.no_grad():
            metadata = file.metadata()
            if metadata["identity"] != identity:
                raise UsageError(
                    f"{folder} holds a training of other settings or other data that was interrupted; give them again "
                    "to resume it, or another -o"
                )
            stored = set(file.keys())
            state: dict[str, Any] = json.loads(metadata["state"])
            for name, tensor in parameters.items():
                tensor.copy_(file.get_tensor(f"parameter.{name}"))
                known = [moment for moment in _MOMENTS if f"{moment}.{name}" in stored]
                if known:
                    optimizer.state[tensor] = {moment: file.get_tensor(f"{moment}.{name}") for moment in known}
                if f"projection.{name}" in stored:
                    put_projection(optimizer, tensor, file.get_tensor(f"projection.{name}"), state["steps"])
            return state
    except (SafetensorError, KeyError, ValueError, TypeError) as error:
        raise CorruptStoreError(f"{path}: damaged ({error}); remove it to begin anew") from error


def drop_checkpoint(folder: Path) -> None:
    """Remove what is there."""
    (folder / FILE).unlink(missing_ok=True)
