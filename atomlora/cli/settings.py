"""Options of `compile` to its settings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atomlora.conflicts.records import OnConflict
from atomlora.errors import UsageError
from atomlora.settings import AdapterSettings, CompileSettings


def compile_settings(
    *,
    rank: int | None,
    alpha: float | None,
    layers: str | None,
    targets: str | None,
    slots: int | None,
    embedder: str | None,
    question_writer: str | None,
    on_conflict: OnConflict | None,
    one_adapter: bool,
    storage: str | None,
    reader: str | None,
) -> CompileSettings:
    """The defaults, but for the options that were given. UsageError names the option that cannot be."""
    names = None if targets is None else tuple(name.strip() for name in targets.split(",") if name.strip())
    if names == ():
        raise UsageError("--targets is empty; name linear layers, such as gate_proj,up_proj,down_proj")
    try:
        adapter = AdapterSettings(**_given(rank=rank, alpha=alpha, layers=layers, targets=names))
        return CompileSettings(
            adapter=adapter,
            **_given(slots=slots, embedder=embedder, question_writer=question_writer),
            **_given(on_conflict=on_conflict, storage=storage, reader=_checked_reader(reader)),
            one_adapter=one_adapter,
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{option} {first['input']}: {first['msg'].lower()}") from error


def _checked_reader(name: str | None) -> str | None:
    """A reader's name as the store keeps it; UsageError where no reader lies there."""
    if name is None or name in ("auto", "none"):
        return name
    from atomlora.reader.folder import read_folder

    return str(read_folder(Path(name)).path.resolve())


def behaviour_files(
    src: Sequence[Path], examples: Sequence[str], kind: str | None, mount: str | None
) -> list[Path] | None:
    """The files of --examples; None where the store's behaviours stay. UsageError for what does not go together."""
    if not src and not examples:
        raise UsageError("nothing to compile; give SRC (documents), or --examples FILE")
    if not examples and (kind or mount):
        raise UsageError(f"{'--type' if kind else '--mount'} is of no use without --examples FILE")
    if "none" in examples and (len(examples) > 1 or mount):
        raise UsageError("--examples none takes all behaviours away, and stands alone")
    return None if not examples else [Path(name) for name in examples if name != "none"]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
