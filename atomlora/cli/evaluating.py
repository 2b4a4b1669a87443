"""`eval`: questions with known answers, asked in several ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atomlora.cli import filters, options

SHARE = click.FloatRange(0, 1)
MODES = "none,text,full,atoms,both,extract"


@click.command("eval")
@options.store_argument
@click.argument("golden", type=click.Path(path_type=Path))
@click.option(
    "--modes",
    default=MODES,
    show_default=True,
    help="Of none, text, full, big, atoms, both, auto and extract. full: the source document in the prompt; big: "
    "the adapter of compile --one-adapter; extract: the likeliest atom's text, no model.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Ask that many questions, evenly spread over the file.")
@click.option(
    "--documents",
    type=click.Path(path_type=Path),
    help="Folder of the compiled documents, for mode full (default: rebuilt from the atoms).",
)
@click.option(
    "--batch-size",
    default=16,
    show_default=True,
    type=click.IntRange(min=1),
    help="Questions asked at a time.",
)
@click.option("--regression", is_flag=True, help="Compare with the bare base on prompts of any kind.")
@options.labels_option
@click.option("--min-unchanged", type=SHARE, help="Of --regression: least share of answers that stay as they are.")
@click.option("--min-still-right", type=SHARE, help="… of the base's right answers that stay right.  [default: 0.95]")
@click.option("--min-still-refused", type=SHARE, help="… of the base's refusals that stay refusals.  [default: 1]")
@click.option("--max-kl", type=click.FloatRange(min=0), help="Of --regression: most nats of KL per token.")
@click.option("--predictions", type=click.Path(path_type=Path), help="Write every answer to this jsonl file.")
@click.option("--record", is_flag=True, help="Keep the scores with the version; atomlora log shows how they moved.")
@options.second_look_option
@options.steady_option
@filters.tenant_option
@options.at_option
@options.reader_options
@options.model_options
@options.json_option
def eval_command(
    store: Path | str,
    golden: Path,
    as_json: bool,
    base: str | None,
    device: str,
    reader: str,
    regression: bool,
    record: bool,
    version: str | None,
    steady: float,
    second_look: bool,
    **how: Any,
) -> None:
    """Score answers to a file of questions, or with --regression what became of the base's own.

    Asks STORE the questions of GOLDEN, mode by mode. Lines of GOLDEN (jsonl): {"question", "answer" |
    "answers" | "answers_all", "source"?}; answers are alternatives, answers_all are all required. With
    --regression lines are {"prompt" | "question", "answer" | "answers"?, "refuse"?}, and the exit code is 1
    where a limit is missed.
    """
    from atomlora.cli.regressions import check_options, run_regression
    from atomlora.cli.scores import record_scores, require_recordable, run_evaluation, show_scores

    options.check_place("--predictions", how["predictions"])
    how["where"] = filters.take_filter(how)
    limits = check_options(regression, record, how)
    opening: dict[str, Any] = {"reader": reader, "version": version, "steady": steady, "second_look": second_look}
    with options.open_model(store, base, device, **opening) as model:
        if limits is not None:
            run_regression(model, golden, limits, as_json, **how)
            return
        if record:
            require_recordable(model.store)
        report = run_evaluation(model, golden, **how)
        show_scores(report, as_json)
        if record:
            record_scores(model.store, golden, report, how | opening | {"style": how["style"] or model.default_style})
