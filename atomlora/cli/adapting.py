"""`adapt`: a reader for a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atomlora.bases import EMBEDDED_BASE
from atomlora.cli import options


@click.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("-o", "--output", "out", required=True, type=options.OutputPath(), help="The reader's folder.")
@click.option("--base", default=EMBEDDED_BASE, show_default=True, help="Base model: name, folder or hub id.")
@click.option(
    "--method",
    type=click.Choice(["lora", "rslora", "dora", "galore"]),
    help="PEFT's method; or galore, which trains the base's own weights.  [default: lora]",
)
@click.option(
    "--start", type=click.Path(path_type=Path), metavar="DIR", help="A reader whose adapter is trained further."
)
@click.option("--lora-plus", type=float, metavar="RATIO", help="LoRA+: B's learning rate over A's.  [default: off]")
@click.option("--layers", metavar="all|late:N|LIST", help="Which layers.  [default: all]")
@click.option("--targets", help="Which linear layers, such as q_proj,v_proj.  [default: all seven]")
@click.option("--rank", type=int, help="Rank of the adapter, or of GaLore's gradients.  [default: 16]")
@click.option("--alpha", type=float, help="Its alpha.  [default: twice the rank]")
@click.option("--projection-gap", type=int, help="GaLore: steps between two projections.  [default: 50]")
@click.option("--projection-scale", type=float, help="GaLore: factor of its steps.  [default: 0.25]")
@click.option("--learning-rate", type=float, help="AdamW's, at its highest.  [default: 0.0005]")
@click.option("--epochs", type=int, help="Passes over the examples.  [default: 3]")
@click.option("--steps", type=int, help="Stop after that many steps, if that is earlier.")
@click.option("--minutes", type=float, help="Stop after that many minutes, if that is earlier.")
@click.option("--batch-tokens", type=int, help="Tokens of a step.  [default: 1536]")
@click.option("--unanswerable", type=float, help="Share of questions that the text does not answer.  [default: 0]")
@click.option("--refusal", help="What is learnt as the answer to them.  [default: ?]")
@click.option("--seed", type=int, help="Of the adapter's first weights and the order.  [default: 0]")
@options.device_option
@options.json_option
def adapt(
    data: Path,
    out: Path,
    base: str,
    device: str,
    as_json: bool,
    targets: str | None,
    start: Path | None,
    **chosen: Any,
) -> None:
    """Train a reader: an adapter that answers shortly from what stands before it.

    Lines of DATA (jsonl): {"text" | "statements", "question", "answer"}; "answer": null where the text has none. The
    result is a folder with PEFT's own adapter files, for ask, eval and compile --reader; of --method galore, a whole
    base that reads by itself, for --base. An interrupted run is resumed by the same command.
    """
    from atomlora.cli.reader_training import adapt_settings, adapt_shown, show_adapted

    settings = adapt_settings(targets, **chosen)
    show_adapted(adapt_shown(data, out, base, settings, device, start), as_json)
