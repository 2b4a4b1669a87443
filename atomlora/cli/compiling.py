"""`compile`: documents to a store of trained atoms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atomlora.bases import EMBEDDED_BASE
from atomlora.cli import options


@click.command("compile")
@click.argument("src", nargs=-1, type=click.Path(path_type=Path))
@click.option(
    "-o",
    "--output",
    "store",
    required=True,
    type=options.OutputPath("give a folder, then publish it with: atomlora push FOLDER ADDRESS"),
    help="The store's folder.",
)
@click.option(
    "--base", help=f"Base model: name, folder or hub id.  [default: the store's, of a new one {EMBEDDED_BASE}]"
)
@options.quantisation_option
@click.option("--embedder", help="The router's embedder: name, folder or hub id.  [default: minilm]")
@options.questions_option
@click.option(
    "--examples",
    multiple=True,
    help='A behaviour: jsonl of {"input", "output"} or {"messages"}. May be repeated; none takes all behaviours away.',
)
@click.option("--type", "kind", type=click.Choice(["behaviour"]), help="What --examples make.  [default: behaviour]")
@click.option("--mount", metavar="always|label:NAME", help="When a behaviour is mounted.  [default: always]")
@click.option("--tenant", metavar="NAME", help="Whose documents SRC are; those of others stay.  [default: everybody's]")
@click.option("--allow-empty", is_flag=True, help="SRC may hold no document: those of the store go.")
@options.writer_options
@click.option(
    "--rank", metavar="N|auto", help="Rank of an atom's adapter; auto: by the longest sentence.  [default: 4]"
)
@click.option("--alpha", type=float, help="Its alpha: deltas are scaled by alpha / rank.  [default: 8]")
@click.option(
    "--layers",
    metavar="late:N|LIST",
    help="Which layers: the last N, or numbers like 25,26,27.  [default: late:auto, the last sixth]",
)
@click.option("--targets", metavar="LIST", help="Which linear layers.  [default: gate_proj,up_proj,down_proj]")
@click.option("--one-adapter", is_flag=True, help="Also train the baseline: one adapter for all, for eval --modes big.")
@click.option("--slots", type=int, help="Atoms that train side by side: more need more memory.  [default: 24]")
@options.on_conflict_option
@click.option("--reader", metavar="auto|none|DIR", help="Who answers shortly by default: see adapt.  [default: auto]")
@click.option("--storage", type=click.Choice(["bf16", "int8"]), help="Store weights so.  [default: bf16]")
@options.device_option
@options.json_option
def compile_command(
    src: tuple[Path, ...],
    store: Path,
    base: str | None,
    base_quantisation: str | None,
    questions: Path | None,
    examples: tuple[str, ...],
    kind: str | None,
    mount: str | None,
    tenant: str | None,
    allow_empty: bool,
    device: str,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Compile documents (files and folders), or examples of a behaviour, or both.

    Without SRC the store's documents stay as they are, without --examples its behaviours do. Only what is new or has
    changed is trained; an interrupted run is resumed by the same command.

    A sentence that --questions names (by text, or start and end) is trained on those lines alone; one whose lines are
    all gone is left out while its document is as it was when the file was written; all others get questions from the
    writer, beside lines of the file that only name their source. See `atomlora questions --help`.
    """
    from atomlora.cli.progress import compile_shown, show_report
    from atomlora.cli.settings import behaviour_files, compile_settings

    files = behaviour_files(src, examples, kind, mount, tenant, allow_empty)
    settings = compile_settings(**chosen)
    how: dict[str, Any] = {"base": base, "base_quantisation": base_quantisation, "questions": questions}
    how |= {"examples": files, "mount": mount or "always", "tenant": tenant, "device": device}
    how["allow_empty"] = allow_empty
    show_report(compile_shown(src, store, settings, **how), as_json)
