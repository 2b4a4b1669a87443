"""What a base in 8 or 4 bits gives away and what it saves: parity with the base as it is, memory, time, atoms on it.

    python bench/quantised.py --json [--base NAME|DIR] [--atoms N]

Parity is over general questions that nothing is trained on: the mean KL divergence of the base's next-token
distributions to the quantised one's over the base's own greedy answers, the share of those tokens that stay the
likeliest, and the share of answers that stay the very same string. Prefill and decoding are timed in turns, a question
at a time, so that a noisy machine burdens all alike: CPU seconds, medians, ratios to the base of the same turn.
`--atoms` trains as many sentences of the sample corpus on each, as `bench/compile.py` does, with the default settings.
Needs atomlora[quantised]; a kind whose package is missing is left out and named.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any

import torch
from beside import beside

from atomlora.bases import EMBEDDED_BASE, Base, load_base
from atomlora.errors import BaseModelError
from atomlora.interference.unseen_questions import UNSEEN_QUESTIONS
from atomlora.prompts import chat_prompt
from atomlora.runtime.decoding import greedy
from atomlora.settings import CompileSettings

KINDS = ("int8", "nf4")


def tensor_bytes(tensor: Any) -> int:
    """Bytes of a parameter; torchao's keep codes and scales in tensors of their own."""
    inner = [getattr(tensor, name, None) for name in ("qdata", "scale", "zero_point")]
    if inner[0] is None:
        return int(tensor.nbytes)
    return sum(int(one.nbytes) for one in inner if isinstance(one, torch.Tensor))


@torch.inference_mode()
def answered(base: Base, question: str, tokens: int) -> list[int]:
    """The base's greedy answer."""
    ids = torch.tensor([chat_prompt(base.tokenizer, question)])
    output = base.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=greedy(base, tokens))
    return list(output[0, ids.shape[1] :].tolist())


@torch.inference_mode()
def distributions(base: Base, question: str, answer: list[int]) -> torch.Tensor:
    """Log-probabilities (T, vocabulary) of each token of `answer`."""
    prompt = chat_prompt(base.tokenizer, question)
    logits = base.model(torch.tensor([[*prompt, *answer[:-1]]])).logits[0, len(prompt) - 1 :]
    return torch.log_softmax(logits.float(), -1)


@torch.inference_mode()
def seconds(base: Base, question: str, tokens: int) -> tuple[float, float]:
    """CPU seconds a token of prefill and of decoding."""
    ids = torch.tensor([chat_prompt(base.tokenizer, question)])
    start = time.process_time()
    state = base.model(ids, use_cache=True)
    prefilled = time.process_time()
    for _ in range(tokens):
        best = state.logits[:, -1:].argmax(-1)
        state = base.model(best, past_key_values=state.past_key_values, use_cache=True)
    return (prefilled - start) / ids.shape[1], (time.process_time() - prefilled) / tokens


def parity(plain: Base, other: Base, questions: list[str], tokens: int) -> dict[str, float]:
    kl: list[float] = []
    likeliest: list[float] = []
    same = 0
    for question in questions:
        answer = answered(plain, question, tokens)
        p, q = distributions(plain, question, answer), distributions(other, question, answer)
        kl += (p.exp() * (p - q)).sum(-1).tolist()
        likeliest += (p.argmax(-1) == q.argmax(-1)).float().tolist()
        same += answer == answered(other, question, tokens)
    return {
        "kl_per_token": round(statistics.mean(kl), 4),
        "likeliest_token_kept": round(statistics.mean(likeliest), 4),
        "answers_unchanged": round(same / len(questions), 4),
    }


def trained(base: Base, count: int) -> dict[str, Any]:
    """`count` atoms on this base, by the trainer of bench/compile.py; the pool is trained or taken from the cache."""
    bench = beside("compile")
    settings = CompileSettings()
    place, apart = bench.prepared(base, settings)
    cost = bench.ours(place, [bench.job_of(base, draft) for draft in bench.chosen_drafts(count)], settings.slots)
    return {
        "atoms": cost.atoms,
        "recall": round(cost.right / cost.asked, 4),
        "cpu_seconds_per_atom": round(cost.cpu / cost.atoms, 3),
        "steps_mean": round(statistics.mean(cost.steps), 1),
        **apart,
    }


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    torch.set_num_threads(arguments.threads)
    load_before = os.getloadavg()
    bases, missing = {"none": load_base(arguments.base, "cpu")}, {}
    for kind in KINDS:
        try:
            bases[kind] = load_base(f"{arguments.base}+{kind}", "cpu")
        except BaseModelError as error:
            missing[kind] = str(error)
    questions = list(UNSEEN_QUESTIONS[: arguments.questions])
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in bases}
    for question in questions:
        for kind, base in bases.items():
            times[kind].append(seconds(base, question, 16))
    rows = []
    for kind, base in bases.items():
        row: dict[str, Any] = {
            "base_quantisation": kind,
            "size_bytes": sum(map(tensor_bytes, base.model.parameters())),
            **parity(bases["none"], base, questions, arguments.tokens),
        }
        for at, name in enumerate(("prefill", "decode")):
            ratios = [mine[at] / its[at] for mine, its in zip(times[kind], times["none"], strict=True)]
            row[f"{name}_ms_per_token"] = round(1000 * statistics.median(one[at] for one in times[kind]), 2)
            row[f"{name}_ratio"] = round(statistics.median(ratios), 3)
            row[f"{name}_ratio_range"] = [round(min(ratios), 3), round(max(ratios), 3)]
        if arguments.atoms:
            row["training"] = trained(base, arguments.atoms)
        rows.append(row)
        print(row, file=sys.stderr)
    packages = (
        "torch",
        "transformers",
        *(name for name in ("torchao", "bitsandbytes") if importlib.util.find_spec(name)),
    )
    return {
        "machine": {"cpu": platform.processor() or platform.machine(), "cores": os.cpu_count(), "device": "cpu"},
        "versions": {name: version(name) for name in packages},
        "base": arguments.base,
        "questions": len(questions),
        "load_average": {"before": load_before, "after": os.getloadavg()},
        "rows": rows,
        "missing": missing,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=EMBEDDED_BASE)
    parser.add_argument("--questions", type=int, default=len(UNSEEN_QUESTIONS))
    parser.add_argument("--tokens", type=int, default=24)
    parser.add_argument("--atoms", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout (the default)")
    print(json.dumps(run(parser.parse_args()), ensure_ascii=False))


if __name__ == "__main__":
    main()
