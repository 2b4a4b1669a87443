"""Writing what `adapt` leaves: whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from atomlora.errors import AtomLoraError


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str]) -> None:
    """Write or replace a safetensors file whole, its folder too where there is none. AtomLoraError where it cannot be
    written."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, temporary, metadata=metadata)
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        raise AtomLoraError(f"{path}: cannot be written ({error}); free space there, or name another -o") from error
    finally:
        temporary.unlink(missing_ok=True)
