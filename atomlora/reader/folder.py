"""A reader's folder: PEFT's own adapter files (safetensors) or a whole base's (see `atomlora.reader.whole`), and
reader.json, which says what it fits and how it was made."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from atomlora.bases import Base
from atomlora.errors import CorruptStoreError, UsageError
from atomlora.questions.loading import base_shape
from atomlora.reader.files import write_tensors

ADAPTER_FILE, CONFIG_FILE, RECIPE_FILE = "adapter_model.safetensors", "adapter_config.json", "reader.json"


class FitsBase(BaseModel):
    """The base that a reader was trained on; `shape` is what another must agree with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    fingerprint: str
    shape: dict[str, int]


class ReaderRecipe(BaseModel):
    """What reader.json holds. `made_from`: the base whose own weights were trained, where the folder is a base that
    reads by itself, which `base` names then. `trained` and `data` are for people: steps, loss, seconds; the file and
    its sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = 1
    base: FitsBase
    made_from: FitsBase | None = None
    settings: dict[str, Any]
    trained: dict[str, Any]
    data: dict[str, Any]


class ReaderFolder(NamedTuple):
    """A folder that was looked at: `digest` is the sha256 over the adapter's two files, or a whole base's
    fingerprint."""

    path: Path
    recipe: ReaderRecipe
    digest: str

    @property
    def whole(self) -> bool:
        """Whether a base lies there, and no adapter."""
        return self.recipe.made_from is not None

    @property
    def refusal(self) -> str | None:
        """What the reader was trained to say where a text does not answer; None where it was not."""
        return str(self.recipe.settings["refusal"]) if self.recipe.trained.get("unanswerable") else None


def read_folder(path: Path, option: str = "--reader") -> ReaderFolder:
    """What lies there, as `option` names it. UsageError where it is no reader's folder, CorruptStoreError where its
    files are damaged."""
    try:
        written = (path / RECIPE_FILE).read_bytes()
        recipe = ReaderRecipe.model_validate(json.loads(written))
        if recipe.format != 1:
            raise UsageError(f"{option} {path}: format {recipe.format} is newer than this atomlora; update it")
        if recipe.made_from is not None:
            return ReaderFolder(path, recipe, recipe.base.fingerprint)
        config, weights = (path / CONFIG_FILE).read_bytes(), (path / ADAPTER_FILE).read_bytes()
    except OSError as error:
        missing = Path(str(error.filename)).name
        raise UsageError(
            f"{option} {path}: {missing} cannot be read there ({error.strerror}); give a folder written by "
            "`atomlora adapt`" + (", or auto or none" if option == "--reader" else "")
        ) from error
    except (ValueError, ValidationError) as error:
        raise CorruptStoreError(f"{path / RECIPE_FILE}: not the description of a reader ({error})") from error
    return ReaderFolder(path, recipe, hashlib.sha256(config + weights).hexdigest())


def require_fit(folder: ReaderFolder, base: Base, option: str = "--reader") -> None:
    """UsageError, naming what differs, where the reader was made for a base of another shape."""
    wanted, found = folder.recipe.base.shape, base_shape(base.model.config)
    if wanted != found:
        differ = ", ".join(f"{k} {found.get(k)} instead of {v}" for k, v in wanted.items() if found.get(k) != v)
        raise UsageError(
            f"{option} {folder.path}: made for base {folder.recipe.base.name!r}, not for {base.name!r} ({differ}); "
            "train one with `atomlora adapt --base`, or use none"
        )


def write_folder(path: Path, wrapped: Any, recipe: ReaderRecipe) -> None:
    """The adapter of a PEFT model in float16, its config without the name of a folder of this machine, and the
    recipe, which comes last: a folder with one is whole."""
    import torch
    from peft import get_peft_model_state_dict

    tensors = get_peft_model_state_dict(wrapped)
    halves = {name: tensor.detach().to("cpu", torch.float16).contiguous() for name, tensor in tensors.items()}
    write_tensors(path / ADAPTER_FILE, halves, {"format": "pt"})
    config = wrapped.peft_config["default"]
    config.base_model_name_or_path, config.inference_mode = None, True
    config.save_pretrained(str(path))
    written = json.loads((path / CONFIG_FILE).read_text(encoding="utf-8"))
    written["target_modules"] = sorted(written["target_modules"])  # a set: in another order in every process
    (path / CONFIG_FILE).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    (path / RECIPE_FILE).write_text(recipe.model_dump_json(indent=2) + "\n", encoding="utf-8")
