"""Files of this folder for each other: `from beside import beside`, then `beside("merges")`; and how results are told.

Importing this takes the folder off the import path before transformers is imported, which probes for a package called
`kernels`: the benchmark of that name must not answer.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent
sys.path[:] = [entry for entry in sys.path if Path(entry).resolve() != FOLDER]


def beside(name: str) -> Any:
    """The module in the file `name`.py of this folder, which is no longer searched; loaded once."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def told(result: dict[str, Any], as_json: bool, show: Callable[[dict[str, Any]], None]) -> None:
    """A result on stdout: one JSON object, or as `show` prints it."""
    if not as_json:
        show(result)
        return
    json.dump(result, sys.stdout, indent=2)
    print()
