"""Train the question writer's LoRA: `python -m atomlora.questions.train_writer --data SQUAD.jsonl --base
DIR --out DIR`.

One adapter learns two tasks (see prompts.py). All tasks of one text are packed into one sequence as
branches of a tree (see atomlora.packing), so the prefix is computed once; this is what the adapter's use does with
its K/V cache. Layers below `--first-layer` carry no adapter. Loss on targets only.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from atomlora.packing import Tree, batches, pack_branches, target_nll
from atomlora.questions.loading import ADAPTER_FILE, SHAPE_FILE, base_shape
from atomlora.questions.prompts import (
    SPAN_SUFFIX,
    prefix_prompt,
    question_suffix,
    question_target,
    span_target,
    token_ids,
)
from atomlora.questions.squad import Group, make_groups, read_passages, split_titles

TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
_MAX_QUESTIONS_PER_GROUP = 6


def pack(tokenizer: Any, group: Group, spans: bool, generator: random.Random | None) -> Tree:
    """Prefix, one branch per human question and (with `spans`) one branch for the span task."""
    pairs = list(group.pairs)
    if generator is not None and len(pairs) > _MAX_QUESTIONS_PER_GROUP:
        pairs = generator.sample(pairs, _MAX_QUESTIONS_PER_GROUP)
    parts = [(question_suffix(answer), question_target(question)) for question, answer in pairs]
    if spans:
        parts.append((SPAN_SUFFIX, span_target(list(dict.fromkeys(answer for _, answer in group.pairs)))))
    branches = [(token_ids(tokenizer, suffix), token_ids(tokenizer, target)) for suffix, target in parts]
    return pack_branches(token_ids(tokenizer, prefix_prompt(group.path, group.text)), branches)


def held_out_nll(model: Any, tokenizer: Any, groups: Sequence[Group]) -> dict[str, float]:
    """Mean NLL per target token of the question task and of the span task, apart."""
    model.eval()
    result = {}
    with torch.no_grad():
        for name, spans in (("question", False), ("span", True)):
            losses = []
            for start in range(0, len(groups), 8):
                trees = [pack(tokenizer, g, spans, None) for g in groups[start : start + 8]]
                if spans:  # keep the prefix and the last branch, which is the span task
                    trees = [_only_last_branch(tree) for tree in trees]
                losses.append(target_nll(model, trees))
            result[name] = float(torch.cat(losses).mean())
    model.train()
    return result


def _only_last_branch(tree: Tree) -> Tree:
    keep = [i for i, b in enumerate(tree.branch) if b in (0, max(tree.branch))]
    return Tree(
        [tree.ids[i] for i in keep],
        [tree.branch[i] for i in keep],
        [tree.position[i] for i in keep],
        [tree.target[i] for i in keep],
    )


def save(wrapped: Any, folder: Path) -> None:
    """The adapter as PEFT lays it out, in float16, and the shape of the base it belongs to (writer.json)."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {k: v.detach().to(torch.float16).contiguous() for k, v in get_peft_model_state_dict(wrapped).items()}
    save_file(tensors, folder / ADAPTER_FILE, metadata={"format": "pt"})
    config = wrapped.peft_config["default"].to_dict()
    config.update(base_model_name_or_path=None, inference_mode=True)
    config["target_modules"] = sorted(config["target_modules"])
    plain = {k: v for k, v in config.items() if isinstance(v, (str, int, float, bool, list)) or v is None}
    (folder / "adapter_config.json").write_text(json.dumps(plain, indent=2, sort_keys=True) + "\n")
    shape = {"base": base_shape(wrapped.get_base_model().config)}
    (folder / SHAPE_FILE).write_text(json.dumps(shape, indent=2) + "\n")


def train(args: argparse.Namespace) -> None:
    """Train for `--epochs` passes or `--minutes`, whichever ends first; the learning rate follows the
    nearer end."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    generator = random.Random(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.base)
    base = AutoModelForCausalLM.from_pretrained(args.base, dtype=torch.bfloat16 if args.bf16 else torch.float32)
    training, held_out = split_titles(read_passages(args.data), args.train_titles)
    scored = make_groups(held_out, None)
    scored = random.Random(0).sample(scored, min(96, len(scored)))
    config = LoraConfig(
        r=args.rank,
        lora_alpha=2 * args.rank,
        target_modules=TARGETS,
        layers_to_transform=list(range(args.first_layer, base.config.num_hidden_layers)),
        layers_pattern="layers",
        task_type="CAUSAL_LM",
    )
    wrapped = get_peft_model(base, config)
    model = wrapped.get_base_model()
    parameters = [p for p in wrapped.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    # Without cache_enabled=False autocast would keep the first step's bfloat16 copies of the LoRA for ever.
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=args.bf16, cache_enabled=False):
        print("held out before", held_out_nll(model, tokenizer, scored), flush=True)
        started, step, saved = time.monotonic(), 0, time.monotonic()
        mean = 0.0
        for epoch in range(args.epochs):
            groups = make_groups(training, generator)
            trees = [pack(tokenizer, group, generator.random() < 0.7, generator) for group in groups]
            plan = batches([t for t in trees if len(t.ids) <= 448], args.batch_tokens, generator)
            for index, batch in enumerate(plan):
                elapsed = (time.monotonic() - started) / (60 * args.minutes)
                done = max((epoch + index / len(plan)) / args.epochs, elapsed)
                if elapsed >= 1:
                    break
                rate = min(1.0, (step + 1) / 15) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
                for settings in optimizer.param_groups:
                    settings["lr"] = args.learning_rate * max(rate, 0.01)
                loss = target_nll(model, batch).mean()
                optimizer.zero_grad(set_to_none=True)
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(parameters, 1.0)
                optimizer.step()
                step += 1
                mean = float(loss.detach()) if step == 1 else 0.95 * mean + 0.05 * float(loss.detach())
                if step % 10 == 0:
                    seconds = time.monotonic() - started
                    print(f"epoch {epoch} {index + 1}/{len(plan)} loss {mean:.3f} {seconds:.0f} s", flush=True)
                if time.monotonic() - saved > 150:
                    save(wrapped, args.out)
                    saved = time.monotonic()
        save(wrapped, args.out)
        print(f"{step} steps in {(time.monotonic() - started) / 60:.1f} min", flush=True)
        print("held out after", held_out_nll(model, tokenizer, scored), flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m atomlora.questions.train_writer", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="SQuAD passages, jsonl")
    parser.add_argument("--base", required=True, help="folder of the base model")
    parser.add_argument("--out", type=Path, required=True, help="folder for the adapter")
    parser.add_argument("--train-titles", type=int, default=16, help="titles (file order) to train on")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--first-layer", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=33.0)
    parser.add_argument("--batch-tokens", type=int, default=1024)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action=argparse.BooleanOptionalAction, default=True)
    train(parser.parse_args(arguments))


if __name__ == "__main__":
    main()
