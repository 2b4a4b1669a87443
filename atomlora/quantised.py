"""Bases whose linear layers are kept in 8 or 4 bits, by transformers' own integrations.

`int8`: torchao, weights only, symmetric by output channel; activations stay in floating point, so that rows of a batch
remain independent (LLM.int8() decides by whole batches which columns it computes exactly). `nf4`: bitsandbytes'
4-bit NormalFloat in blocks of 64 (QLoRA, arXiv 2305.14314). Embeddings and the head stay as they are. Both run on CPU
and CUDA. A quantised base computes other numbers, so it is another base: its name ends in `+int8` or `+nf4`, and its
fingerprint is its own.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, get_args

from atomlora.errors import BaseModelError, UsageError

Quantisation = Literal["int8", "nf4"]
_BLOCK = 64  # of NF4
_PACKAGES: dict[Quantisation, str] = {"int8": "torchao", "nf4": "bitsandbytes"}


def split_name(name: str) -> tuple[str, Quantisation | None]:
    """`NAME+int8` as (NAME, int8); any other name, a folder's too, with None."""
    plain, _, kind = name.rpartition("+")
    for known in get_args(Quantisation):
        if plain and kind == known and not Path(name).expanduser().is_dir():
            return plain, known
    return name, None


def quantised_name(name: str, kind: str | None) -> str:
    """The name of a base in this quantisation (None or `none`: as it is named). UsageError where it names another."""
    own = split_name(name)[1]
    if kind in (None, "none", own):
        if kind == "none" and own is not None:
            raise UsageError(f"--base {name} is quantised; leave +{own} or --base-quantisation none out")
        return name
    if own is not None:
        raise UsageError(f"--base {name} is quantised as {own}, not as --base-quantisation {kind} says")
    return f"{name}+{kind}"


def loading(kind: Quantisation | None, device: str, dtype: Any) -> dict[str, Any]:
    """Keywords of `from_pretrained` for a base in this quantisation; BaseModelError where its package is missing."""
    if kind is None:
        return {}
    package = _PACKAGES[kind]
    if importlib.util.find_spec(package) is None:
        raise BaseModelError(f"a base in {kind} needs the package {package}; install it with atomlora[quantised]")
    from transformers import BitsAndBytesConfig, TorchAoConfig

    if kind == "nf4":
        config: Any = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype)
    else:
        from torchao.quantization import Int8WeightOnlyConfig

        config = TorchAoConfig(Int8WeightOnlyConfig())
    return {"quantization_config": config, "device_map": {"": device}}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without what importing torchao and bitsandbytes tells about compiled parts that are not there, which is of no use
    to anybody."""
    loggers = [logging.getLogger(name) for name in ("torchao", "torch.utils._pytree", "bitsandbytes")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def check_loaded(model: Any, name: str, kind: Quantisation | None) -> None:
    """BaseModelError for a model that could be loaded, but would fail when it computes."""
    if kind != "nf4" or model.device.type != "cpu":
        return
    for path, module in model.named_modules():
        if type(module).__name__ == "Linear4bit" and module.in_features % _BLOCK:
            raise BaseModelError(
                f"--base {name}: {path} has {module.in_features} inputs, no multiple of {_BLOCK}, with which "
                "bitsandbytes cannot compute on a CPU; take int8"
            )


def plain_values(tensor: Any) -> Any:
    """A tensor, or the values that one of torchao's stands for."""
    return tensor.dequantize() if type(tensor).__module__.startswith("torchao") else tensor


def dense_weight(module: Any) -> Any:
    """The weight (d_out, d_in) that a linear layer applies, plain or quantised; its bias left out."""
    import torch

    weight = plain_values(module.weight.detach())
    if weight.is_floating_point():
        return weight
    # Codes are packed otherwise from processor to processor; what the layer does with unit vectors is its weight.
    with torch.no_grad():
        applied = module(torch.eye(module.in_features, device=weight.device))
        return (applied if module.bias is None else applied - module.bias).T
