"""Test files for each other: their folders are no packages."""

import importlib.util
from pathlib import Path
from typing import Any


def beside(file: str, name: str) -> Any:
    """The module in the file `name`.py in the folder of the test file `file`; a module of the caller's own."""
    spec = importlib.util.spec_from_file_location(name, Path(file).with_name(f"{name}.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
