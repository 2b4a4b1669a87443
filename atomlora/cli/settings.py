"""Options of `compile` to its settings."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

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
    storage: str | None,
) -> CompileSettings:
    """The defaults, but for the options that were given. UsageError names the option that cannot be."""
    names = None if targets is None else tuple(name.strip() for name in targets.split(",") if name.strip())
    if names == ():
        raise UsageError("--targets is empty; name linear layers, such as gate_proj,up_proj,down_proj")
    try:
        adapter = AdapterSettings(**_given(rank=rank, alpha=alpha, layers=layers, targets=names))
        return CompileSettings(
            adapter=adapter,
            **_given(slots=slots, embedder=embedder, question_writer=question_writer, storage=storage),
        )
    except ValidationError as error:
        first = error.errors()[0]
        option = "--" + str(first["loc"][0]).replace("_", "-")
        raise UsageError(f"{option} {first['input']}: {first['msg'].lower()}") from error


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
