"""The wheel: everything that belongs in it, nothing else, and an import that waits for no model library."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("atomlora", "corpora", "kernels", "router")
HEAVY = ("torch", "transformers", "sentence_transformers", "faiss", "numba", "peft")
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built offline from a copy of the tree in which Python has left its cache files."""
    tree, output = tmp_path_factory.mktemp("tree"), tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    for folder in SOURCES:
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    for folder in ("corpora/samples/kestrin/documents/technical", "router"):
        (tree / folder / "__pycache__").mkdir()
        (tree / folder / "__pycache__" / "left.cpython-311.pyc").write_bytes(b"left behind")
    _pip("wheel", "--no-build-isolation", "--wheel-dir", str(output), str(tree))
    return next(output.glob("atomlora-*.whl"))


@pytest.fixture(scope="module")
def members(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds the installed wheel, compiled as pip compiles it."""
    target = tmp_path_factory.mktemp("installed")
    _pip("install", "--target", str(target), str(wheel))
    return target


def _pip(command: str, *arguments: str) -> None:
    call = [sys.executable, "-m", "pip", command, "--quiet", "--no-deps", "--no-index", *arguments]
    done = subprocess.run(call, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _run(code: str, installed: Path, folder: Path) -> str:
    """What `code` prints in a new interpreter, away from the repository, with the installed wheel first."""
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    call = [sys.executable, "-c", code]
    done = subprocess.run(call, capture_output=True, text=True, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _in_wheel(path: Path) -> str:
    """A source file's name inside the wheel."""
    relative = path.relative_to(ROOT).as_posix()
    return relative if relative.startswith("atomlora/") else f"atomlora/{relative}"


def _shipped(folder: Path) -> list[Path]:
    return sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts)


def test_every_package_folder_is_listed() -> None:
    folders = [path.parent for name in SOURCES for path in (ROOT / name).rglob("__init__.py")]
    names = {_in_wheel(folder).replace("/", ".") if folder != ROOT / "atomlora" else "atomlora" for folder in folders}
    assert names == set(SETUPTOOLS["packages"])


def test_every_folder_of_modules_is_a_package() -> None:
    bare = {
        path.parent.relative_to(ROOT).as_posix()
        for name in SOURCES
        for path in (ROOT / name).rglob("*.py")
        if "samples" not in path.parts and not (path.parent / "__init__.py").exists()
    }
    assert not bare


def test_wheel_holds_one_top_level_package(members: set[str]) -> None:
    tops = {name.split("/")[0] for name in members}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"atomlora"}


def test_wheel_holds_every_module(members: set[str]) -> None:
    modules = [path for name in SOURCES for path in (ROOT / name).rglob("*.py")]
    assert len(modules) > 50
    assert {_in_wheel(path) for path in modules} <= members


@pytest.mark.parametrize("folder", ["corpora/samples", "atomlora/questions/writers", "atomlora/reader/readers"])
def test_wheel_holds_every_data_file(folder: str, wheel: Path, members: set[str]) -> None:
    files = _shipped(ROOT / folder)
    assert len(files) >= 3
    with zipfile.ZipFile(wheel) as archive:
        for path in files:
            assert _in_wheel(path) in members
            assert archive.read(_in_wheel(path)) == path.read_bytes()


def test_wheel_holds_nothing_by_accident(members: set[str]) -> None:
    expected = {_in_wheel(path) for name in SOURCES for path in _shipped(ROOT / name)}
    extra = {name for name in members if ".dist-info/" not in name} - expected
    assert not extra
    assert "atomlora/py.typed" in members
    assert any(re.search(r"\.dist-info/.*LICENSE$", name) for name in members)


def test_installed_packages_import_lightly_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    code = f"""
import importlib, json, sys
homes = {{name: importlib.import_module(name).__file__ for name in {SETUPTOOLS["packages"]!r}}}
print(json.dumps([homes, sorted(set({HEAVY!r}) & set(sys.modules))]))
"""
    homes, heavy = json.loads(_run(code, installed, tmp_path))
    assert {name for name, home in homes.items() if not Path(home).is_relative_to(installed)} == set()
    assert heavy == []


def test_help_waits_for_no_model_library(installed: Path, tmp_path: Path) -> None:
    code = f"""
import sys
from atomlora.cli import main
sys.argv = ["atomlora", "--help"]
try:
    main()
except SystemExit as stop:
    assert not stop.code, stop.code
print("heavy:", sorted(set({HEAVY!r}) & set(sys.modules)))
"""
    printed = _run(code, installed, tmp_path)
    assert "compile" in printed
    assert "ask" in printed
    assert printed.strip().endswith("heavy: []")


def test_the_libraries_that_must_not_load_are_there() -> None:
    """Otherwise the two tests above could not fail."""
    assert all(find_spec(name) is not None for name in HEAVY)


def test_installed_samples_read_as_in_the_tree(installed: Path, tmp_path: Path) -> None:
    code = """
import json
from atomlora.corpora import read_corpus, sample_path
found = read_corpus([sample_path("kestrin") / "documents"])
print(json.dumps([[type(item).__name__, item.source] for item in found]))
"""
    found = json.loads(_run(code, installed, tmp_path))
    assert {kind for kind, _ in found} == {"Document"}
    sources = {source.split("#")[0] for _, source in found}
    documents = ROOT / "corpora/samples/kestrin/documents"
    assert sources == {path.relative_to(documents).as_posix() for path in _shipped(documents)}
