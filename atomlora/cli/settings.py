"""Options of `compile` to its settings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from atomlora.conflicts.records import OnConflict
from atomlora.errors import UsageError
from atomlora.settings import AdapterSettings, CompileSettings, EndpointSettings

_OPTIONS = {  # of settings that have another name
    "concurrency": "--writer-concurrency",
    "requests_per_minute": "--writer-requests-per-minute",
    "timeout_s": "--writer-timeout",
}


def compile_settings(
    *,
    rank: str | None,
    alpha: float | None,
    layers: str | None,
    targets: str | None,
    slots: int | None,
    embedder: str | None,
    on_conflict: OnConflict | None,
    one_adapter: bool,
    storage: str | None,
    reader: str | None,
    **writer: Any,
) -> CompileSettings:
    """The defaults, but for the options that were given. UsageError names the option that cannot be."""
    names = None if targets is None else tuple(name.strip() for name in targets.split(",") if name.strip())
    if names == ():
        raise UsageError("--targets is empty; name linear layers, such as gate_proj,up_proj,down_proj")
    with _named_options():
        number = None if rank == "auto" else rank  # pydantic makes a number of it
        adapter = AdapterSettings(**_given(rank=number, alpha=alpha, layers=layers, targets=names))
        return CompileSettings(
            adapter=adapter,
            **_given(auto_rank=True if rank == "auto" else None),
            **_given(slots=slots, embedder=embedder, on_conflict=on_conflict, storage=storage),
            **_given(reader=_checked_reader(reader)),
            **_writer(**writer),
            one_adapter=one_adapter,
        )


def question_settings(**writer: Any) -> CompileSettings:
    """What `questions` shares with `compile`."""
    with _named_options():
        return CompileSettings(**_writer(**writer))


def _writer(
    *,
    question_writer: str | None = None,
    question_rounds: int | None = None,
    writer_concurrency: int | None = None,
    writer_requests_per_minute: float | None = None,
    writer_timeout: float | None = None,
) -> dict[str, Any]:
    """Options about the question writer as settings; UsageError for what only an address has."""
    names = {
        "concurrency": writer_concurrency,
        "requests_per_minute": writer_requests_per_minute,
        "timeout_s": writer_timeout,
    }
    if _given(**names) and "://" not in (question_writer or ""):
        raise UsageError("--writer-… options are for a writer behind an address: --question-writer URL#MODEL")
    return {
        "endpoint": EndpointSettings(**_given(**names)),
        **_given(question_writer=question_writer, question_rounds=question_rounds),
    }


@contextlib.contextmanager
def _named_options() -> Iterator[None]:
    """What settings refuse, as a UsageError that names the option."""
    try:
        yield
    except ValidationError as error:
        first = error.errors()[0]
        field = str(first["loc"][0])
        option = _OPTIONS.get(field) or "--" + field.replace("_", "-")
        raise UsageError(f"{option} {first['input']}: {first['msg'].lower()}") from error


def _checked_reader(name: str | None) -> str | None:
    """A reader's name as the store keeps it; UsageError where no reader lies there."""
    if name is None or name in ("auto", "none"):
        return name
    from atomlora.reader.folder import read_folder

    return str(read_folder(Path(name)).path.resolve())


def behaviour_files(
    src: Sequence[Path],
    examples: Sequence[str],
    kind: str | None,
    mount: str | None,
    tenant: str | None,
    allow_empty: bool = False,
) -> list[Path] | None:
    """The files of --examples; None where the store's behaviours stay. UsageError for what does not go together."""
    if not src and not examples:
        raise UsageError("nothing to compile; give SRC (documents), or --examples FILE")
    if tenant is not None and not tenant.strip():
        raise UsageError("--tenant: is empty; give a name, or leave the option out")
    if tenant is not None and (examples or not src):
        raise UsageError("--tenant NAME says whose documents SRC are; behaviours (--examples) are every tenant's")
    if allow_empty and not src:
        raise UsageError("--allow-empty is about SRC; name the folder that has been emptied")
    if not examples and (kind or mount):
        raise UsageError(f"{'--type' if kind else '--mount'} is of no use without --examples FILE")
    if "none" in examples and (len(examples) > 1 or mount):
        raise UsageError("--examples none takes all behaviours away, and stands alone")
    return None if not examples else [Path(name) for name in examples if name != "none"]


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}
