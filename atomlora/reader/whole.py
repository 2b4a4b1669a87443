"""What method galore leaves: a folder with a whole base, that any command takes by --base, and reader.json, by which it
reads without an adapter."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from atomlora.bases import EMBEDDED_BASE, Base, load_base
from atomlora.errors import UsageError
from atomlora.quantised import split_name
from atomlora.questions.loading import base_shape
from atomlora.reader.folder import RECIPE_FILE, FitsBase, ReaderFolder, ReaderRecipe, read_folder

if TYPE_CHECKING:
    from collections.abc import Callable

_CARD = """\
# {name}

{parent}, all of whose chosen linear layers were trained (GaLore, arXiv 2403.03507) by `atomlora adapt` to answer in a
few words from a text before it. `reader.json` has the base that it was made from, the settings, the data's digest and
the training. The licence of {parent} holds for it, and that of what it was trained on.

    atomlora compile DOCUMENTS -o STORE --base THIS_FOLDER
    atomlora ask STORE QUESTION --style auto
"""


def write_base(out: Path, base: Base, recipe_of: Callable[[FitsBase], ReaderRecipe]) -> str:
    """The trained base, its tokenizer, a card and the recipe that `recipe_of` makes of what the base has become, in
    `out`, whole or not at all: it is written beside, read back, and renamed. Returns its fingerprint.

    Weights are in float16 where that holds them, else in float32: steps are smaller than what bfloat16 tells apart.
    `out` may be a folder that holds a checkpoint.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        model = base.model.eval().requires_grad_(False).to("cpu")
        with open(os.devnull, "w") as nowhere, contextlib.redirect_stderr(nowhere):  # a progress bar
            model.to(torch.float16 if _fits_half(model) else torch.float32).save_pretrained(temporary)
        base.tokenizer.save_pretrained(temporary)
        (temporary / "README.md").write_text(_CARD.format(name=out.name, parent=base.name), encoding="utf-8")
        made = load_base(str(temporary), "cpu")
        fits = FitsBase(name=out.name, fingerprint=made.fingerprint, shape=base_shape(made.model.config))
        (temporary / RECIPE_FILE).write_text(recipe_of(fits).model_dump_json(indent=2) + "\n", encoding="utf-8")
        temporary.chmod(0o755)  # mkdtemp's is for its owner alone
        if out.exists():
            shutil.rmtree(out)  # with the checkpoint, which is no longer needed
        temporary.rename(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return made.fingerprint


def own_reader(base: Base) -> ReaderFolder | None:
    """The folder of a base that reads by itself; None for any other."""
    name, quantisation = split_name(base.name)
    folder = Path(name).expanduser()
    if name == EMBEDDED_BASE or not (folder / RECIPE_FILE).is_file():
        return None
    found = read_folder(folder)
    # A quantised one has another fingerprint.
    same = found.whole and (quantisation is not None or found.recipe.base.fingerprint == base.fingerprint)
    return found if same else None


def require_own(folder: ReaderFolder, base: Base) -> None:
    """UsageError where a folder holds a whole base, and that is not `base`."""
    own = own_reader(base)
    if folder.whole and (own is None or own.digest != folder.digest):
        raise UsageError(
            f"--reader {folder.path}: is a whole base, which reads by itself; compile and ask with --base {folder.path}"
        )


def _fits_half(model: Any) -> bool:
    largest = torch.finfo(torch.float16).max
    return all(bool((tensor.abs() <= largest).all()) for tensor in model.parameters())
