"""Reading a question writer's folder: PEFT's adapter files and writer.json, which names the base's shape."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from atomlora.errors import CorruptStoreError, UsageError

ADAPTER_FILE = "adapter_model.safetensors"
SHAPE_FILE = "writer.json"


def base_shape(config: Any) -> dict[str, int]:
    """The figures of a base's config that an adapter must agree with."""
    names = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "vocab_size",
    )
    return {name: int(getattr(config, name, -1)) for name in names}


def read_shape(adapter_dir: Path) -> dict[str, int]:
    """The base shape that an adapter was trained on; UsageError if the folder is no question writer."""
    try:
        return {str(k): int(v) for k, v in json.loads((adapter_dir / SHAPE_FILE).read_text())["base"].items()}
    except OSError as error:
        raise UsageError(
            f"--question-writer {adapter_dir}: no {SHAPE_FILE} there; give a folder written by "
            "atomlora.questions.train_writer, or auto, none, base"
        ) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CorruptStoreError(
            f"{adapter_dir / SHAPE_FILE}: not the description of a question writer ({error})"
        ) from error


def read_deltas(adapter_dir: Path) -> tuple[dict[tuple[int, str], tuple[torch.Tensor, torch.Tensor]], str]:
    """{(layer, module): (A (r, d_in), alpha/r B (d_out, r))} float32 of every adapted linear, and the
    files' sha256."""
    from safetensors.torch import load

    try:
        settings = (adapter_dir / "adapter_config.json").read_bytes()
        data = (adapter_dir / ADAPTER_FILE).read_bytes()
        config = json.loads(settings)
        tensors = load(data)
        scaling = config["lora_alpha"] / config["r"]
        deltas = {}
        for name in tensors:
            if ".lora_A." in name:
                parts = name.split(".")
                layer = int(parts[parts.index("layers") + 1])
                a, b = tensors[name].float(), tensors[name.replace(".lora_A.", ".lora_B.")].float()
                deltas[layer, parts[parts.index("lora_A") - 1]] = (a, scaling * b)
    except OSError as error:
        raise UsageError(
            f"--question-writer {adapter_dir}: {error.filename} cannot be read ({error.strerror})"
        ) from error
    except Exception as error:  # safetensors raises its own class for a damaged header
        raise CorruptStoreError(f"{adapter_dir}: damaged adapter ({error}); reinstall or train it again") from error
    if not deltas:
        raise CorruptStoreError(f"{adapter_dir / ADAPTER_FILE}: no LoRA in it; reinstall or train it again")
    return deltas, hashlib.sha256(settings + data).hexdigest()
