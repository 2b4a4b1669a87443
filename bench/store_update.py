"""What a one-fact update costs, and what it leaves alone.

    python bench/store_update.py --json [--atoms 1000]                      a tiny random base, documents made up
    python bench/store_update.py --json --store DIR --documents DIR --golden FILE [--find TEXT --replace TEXT]

The second form copies a compiled store and its documents, so the base is the real one. In both, one fact is edited, the
same compile runs again, and what came out is compared with the version before: which atoms were trained, whether every
other atom has the same weights, and whether every question about them is routed to the same atoms at the same gates
(`routes_equal`; the embedder is the store's own). `answers_equal` counts answers that are the same text, where
`--answers N` asks for some.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import beside  # noqa: F401 - takes this folder off the import path

from atomlora import AtomLoRA, CompileSettings, compile_corpus
from atomlora.golden import load_golden
from atomlora.settings import AdapterSettings, TrainSettings
from atomlora.store import Store, difference

METALS = ("tin", "iron", "brass", "silver", "copper", "nickel", "bronze", "steel", "lead", "zinc")
THINGS = ("bell", "gate", "lamp", "clock", "anchor", "rail", "roof", "door", "mast", "crane")
FILES = 20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--atoms", type=int, default=1000)
    parser.add_argument("--store", type=Path)
    parser.add_argument("--documents", type=Path)
    parser.add_argument("--golden", type=Path)
    parser.add_argument("--find", default="A share costs 25 crowns")
    parser.add_argument("--replace", default="A share costs 40 crowns")
    parser.add_argument("--answers", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        result = compiled(folder, options) if options.store else made_up(folder, options.atoms)
    print(json.dumps(result) if options.json else "\n".join(f"{key:<28} {value}" for key, value in result.items()))


def made_up(folder: Path, atoms: int) -> dict[str, Any]:
    """A store of `atoms` atoms on a random base of two layers, trained for two steps each."""
    os.environ["ATOMLORA_CACHE"] = str(folder / "cache")
    documents = folder / "documents"
    documents.mkdir()
    per_file = atoms // FILES
    for file in range(FILES):
        facts = [
            f"The {THINGS[n % 10]} of hall {n} in quarter {file} was cast from {METALS[(7 * n + file) % 10]}."
            for n in range(per_file)
        ]
        (documents / f"quarter{file}.md").write_text(f"# Quarter {file}\n\n" + "\n\n".join(facts) + "\n")
    settings = CompileSettings(
        adapter=AdapterSettings(rank=2, layers="late:1"),
        train=TrainSettings(pool_atoms=1, max_steps=2, rows_per_step=1, silence_tokens=2),
        question_writer="none",
        max_questions=2,
    )
    base = tiny_base(folder / "base", [path.read_text() for path in documents.glob("*.md")])
    began = time.perf_counter()
    compile_corpus([documents], folder / "store", settings, base=str(base), device="cpu")
    whole = time.perf_counter() - began
    find = "The bell of hall 0 in quarter 7 was cast from"
    result = update(folder / "store", documents, settings, str(base), find, f"{find} sea-green", None, 0)
    return {"base": "random Llama, 2 layers", "seconds_whole_compile": round(whole, 2), **result}


def compiled(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """A copy of a store that was compiled from `options.documents`."""
    shutil.copytree(options.store, folder / "store")
    shutil.copytree(options.documents, folder / "documents")
    manifest = Store.open(folder / "store").manifest
    settings = CompileSettings.model_validate(manifest.settings)
    return {"base": manifest.base.name} | update(
        folder / "store", folder / "documents", settings, manifest.base.name, options.find, options.replace,
        options.golden, options.answers,
    )  # fmt: skip


def update(
    path: Path, documents: Path, settings: CompileSettings, base: str, find: str, replace: str,
    golden: Path | None, answers: int,
) -> dict[str, Any]:  # fmt: skip
    """Edit one fact, compile, compare."""
    (file,) = [one for one in sorted(documents.rglob("*.md")) if find in one.read_text()]
    before = Store.open(path)
    edited = {atom.id for atom in before.atoms() if find in atom.text}
    questions = asked(before, golden, edited, file.relative_to(documents).as_posix())
    was = routes(path, questions)
    said = answer(path, questions[:: max(1, len(questions) // answers)]) if answers else {}
    file.write_text(file.read_text().replace(find, replace))
    began = time.perf_counter()
    report = compile_corpus([documents], path, settings, base=base, device="cpu")
    seconds = time.perf_counter() - began
    after = Store.open(path)
    changed = difference(before, after)
    now = routes(path, questions)
    same = [q for q in questions if now[q] == was[q]]
    ids = [q for q in questions if [i for i, _ in now[q]] == [i for i, _ in was[q]]]
    gap = [abs(a[1] - b[1]) for q in ids for a, b in zip(now[q], was[q], strict=True)]
    again = answer(path, list(said)) if said else {}
    return {
        "atoms": len(after),
        "trained": report.atoms_new,
        "removed": report.atoms_removed,
        "other_weights": len(changed.retrained),
        "unchanged": changed.unchanged,
        "seconds_update": round(seconds, 2),
        "seconds_by_stage": {stage: round(value, 2) for stage, value in report.seconds_by_stage.items()},
        "questions": len(questions),
        "routes_equal": len(same),
        "routes_same_atoms": len(ids),
        "largest_gate_change": round(max(gap, default=0.0), 6),
        "answers": len(said),
        "answers_equal": sum(again[q] == said[q] for q in said),
    }


def asked(store: Store, golden: Path | None, edited: set[str], source: str) -> list[str]:
    """The questions that the edit is not about: of a golden file those about other sources, else the store's own."""
    if golden is not None:
        return [question.question for question in load_golden(golden) if source not in question.sources]
    own = [question.text for atom in store.atoms() if atom.id not in edited for question in atom.questions[:1]]
    return list(dict.fromkeys(own))


def routes(path: Path, questions: list[str]) -> dict[str, list[tuple[str, float]]]:
    """{question: [(atom, gate), …]} of those that take part."""
    with AtomLoRA.open(path) as model:
        found = model.router.route_batch(questions, 4)
    return {q: [(atom.id, atom.weight) for atom in route.atoms] for q, route in zip(questions, found, strict=True)}


def answer(path: Path, questions: list[str]) -> dict[str, str]:
    with AtomLoRA.open(path) as model:
        return dict(zip(questions, (a.text for a in model.ask_batch(questions, style="statement")), strict=True))


def tiny_base(folder: Path, texts: list[str]) -> Path:
    """A random Llama of two layers with a tokenizer of the words of `texts`."""
    import re

    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = sorted({word for text in texts for word in re.findall(r"\w+|[^\w\s]+", text)})
    tokens = ["<|end|>", "<|turn|>", "<|done|>", "<unk>", "user", "assistant", *words]
    inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(dict.fromkeys(tokens))}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.add_special_tokens(tokens[:3])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|end|>", pad_token="<|end|>")
    tokenizer.chat_template = (
        "{% for m in messages %}<|turn|> {{ m['role'] }} {{ m['content'] }} <|done|> {% endfor %}"
        "{% if add_generation_prompt %}<|turn|> assistant {% endif %}"
    )
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=len(tokenizer), num_key_value_heads=2, max_position_embeddings=256,
                         pad_token_id=0, bos_token_id=None, eos_token_id=0, **sizes)  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


if __name__ == "__main__":
    main()
