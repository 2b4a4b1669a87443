"""What bench/qa.py compares atoms with, trained by PEFT on the same base from the same atoms' texts and questions.

- lora: one LoRA on the MLPs of all blocks, with as many parameters as all atoms together, trained on the atoms' own
  examples until all are greedy, or EPOCHS times over (the baseline `big` has the atoms' layers, scope and trainer).
- prag: the recipe of Parametric RAG (arXiv 2501.15915, its public code: `src/encode.py`, `src/augment.py` and the
  settings of `configs/popqa_*.sh`): for each passage a LoRA of rank 2, alpha 32 on the MLPs of all blocks, AdamW at
  3e-4, batches of one, two epochs, loss on every token, over three questions with answers, the first half of them
  behind the passage and behind the base's own rewriting of it, the others alone; to answer, the adapters of up to three
  passages are joined (`cat`, weights 1) and the prompt holds no text. Three things are different here: the questions
  are those of this project's writer, since the base is too small to write any; a passage is up to 100 words of
  sentences in a row; and nothing is padded to 3,000 tokens. prag-all has every written question instead of three;
  prag-recalled goes on until the three answers are greedy without a passage, or PRAG_MOST epochs: what PRAG's recipe
  takes to recall what it is trained on, as atoms do.
"""

from __future__ import annotations

import json
import random
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any, NamedTuple

import torch
from beside import beside
from peft import LoraConfig, PeftModel, get_peft_model

from atomlora.atom import Atom, Target, digest_json, record_size
from atomlora.bases import Base, blocks
from atomlora.full_context import Reply
from atomlora.prompts import chat_prompt
from atomlora.runtime.decoding import decode_batch, left_pad
from atomlora.settings import AdapterSettings
from atomlora.training.shape import resolve_targets
from atomlora.training.trainer import AtomJob
from atomlora.training.trunk import IGNORED, Example
from atomlora.wordings import training_wordings

RIVALS = ("lora", "prag", "prag-all", "prag-recalled")
MLP = ["gate_proj", "up_proj", "down_proj"]
EPOCHS, LORA_RATE, LORA_BATCH = 12, 1e-3, 8
PRAG = LoraConfig(r=2, lora_alpha=32, target_modules=MLP, lora_dropout=0.0, task_type="CAUSAL_LM")
PRAG_EPOCHS, PRAG_MOST, PRAG_RATE, PRAG_QUESTIONS, PRAG_PASSAGES, PASSAGE_WORDS, SEED = 2, 60, 3e-4, 3, 3, 100, 42
REWRITE = (
    "Rewrite the following passage. While keeping the entities, proper nouns, and key details such as names, "
    "locations, and terminology intact, create a new version of the text that expresses the same ideas in a different "
    "way. Make sure the revised passage is distinct from the original one, but preserves the core meaning and relevant "
    "information.\n"
)
ANSWER = (
    "You should answer the question by referring to the knowledge provided below and integrating your own knowledge."
    "\n{passages}\n\nQuestion: {question}"
)
Tell = Callable[[str], None]


class Passage(NamedTuple):
    """Sentences in a row, each an atom."""

    atoms: tuple[Atom, ...]

    @property
    def text(self) -> str:
        return " ".join(atom.text for atom in self.atoms)

    def questions(self, most: int | None) -> list[tuple[str, str]]:
        """Written questions and their short answers: each atom's first, each atom's second, …"""
        written = [[q for q in atom.questions if q.kind == "written"] for atom in self.atoms]
        in_turn = chain.from_iterable(zip_longest(*written))
        return [(q.text, q.answer) for q in in_turn if q is not None][:most]


def passages_of(atoms: Sequence[Atom]) -> list[Passage]:
    """The atoms of each document in their order, cut where PASSAGE_WORDS words are full."""
    placed = sorted((place.source, place.start, atom.id) for atom in atoms for place in atom.provenances)
    known = {atom.id: atom for atom in atoms}
    found: list[list[Atom]] = []
    source, words = None, 0
    for where, _, name in placed:
        atom = known[name]
        size = len(atom.text.split())
        if where != source or words + size > PASSAGE_WORDS:
            found.append([])
            source, words = where, 0
        found[-1].append(atom)
        words += size
    return [Passage(tuple(some)) for some in found]


def train_rival(
    kind: str, base: Base, atoms: Sequence[Atom], targets: tuple[Target, ...], work: Path, tell: Tell
) -> list[Path]:
    """The folders of a rival's adapters, each with training.json; what is there is not trained again."""
    named = digest_json([base.fingerprint, kind, sorted(atom.id for atom in atoms)])[:12]
    folder = work / f"{kind}-{named}"
    if kind == "lora":
        if not (folder / "training.json").is_file():
            train_lora(base, atoms, targets, folder, tell)
        return [folder]
    passages = passages_of(atoms)
    folders = [folder / str(number) for number in range(len(passages))]
    for number, (passage, place) in enumerate(zip(passages, folders, strict=True), start=1):
        if not (place / "training.json").is_file():
            train_passage(base, passage, kind, place)
        tell(f"{kind}: passage {number}/{len(passages)}")
    return folders


def train_lora(base: Base, atoms: Sequence[Atom], targets: tuple[Target, ...], folder: Path, tell: Tell) -> None:
    """One LoRA that learns what all atoms have learnt; matrix products in bfloat16, which costs it nothing here."""
    wordings = [wording for atom in atoms for wording in training_wordings(atom)]
    examples = [Example.asked(base.tokenizer, *wording) for wording in wordings]
    everywhere = resolve_targets(base.model, AdapterSettings(layers=f"late:{len(blocks(base.model))}"))
    rank = max(1, round(sum(record_size(atom.rank, targets) for atom in atoms) / record_size(1, everywhere)))
    torch.manual_seed(0)
    model, state = _begun(base, rank, folder)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=LORA_RATE)
    while state["epoch"] < EPOCHS and state["right"] < len(examples):
        began, wall = time.process_time(), time.perf_counter()
        optimiser.param_groups[0]["lr"] = LORA_RATE * max(0.1, 1 - state["epoch"] / EPOCHS)
        state["right"] = 0
        for part in _batches(examples, random.Random(state["epoch"])):
            batch = beside("peft_loop").peft_batch(AtomJob("", part), base.tokenizer.pad_token_id)
            with torch.autocast("cpu", torch.bfloat16, enabled=base.model.device.type == "cpu"):
                out = model(**{name: tensor.to(base.model.device) for name, tensor in batch.items()})
            wanted = batch["labels"][:, 1:].to(out.logits.device)
            state["right"] += int(((out.logits[:, :-1].argmax(-1) == wanted) | (wanted == IGNORED)).all(1).sum())
            out.loss.backward()
            optimiser.step()
            optimiser.zero_grad()
            state["steps"] += 1
        state["epoch"] += 1
        state["cpu_s"] += time.process_time() - began
        state["wall_s"] += time.perf_counter() - wall
        model.save_pretrained(folder)
        (folder / "epoch.json").write_text(json.dumps(state), encoding="utf-8")
        tell(f"lora: epoch {state['epoch']}, {state['right']}/{len(examples)} right, {state['cpu_s']:.0f} CPU s")
    recall = round(state["right"] / len(examples), 4)
    _keep(model, folder, state | {"rank": rank, "examples": len(examples), "recall": recall})
    model.unload()


def _begun(base: Base, rank: int, folder: Path) -> tuple[Any, dict[str, Any]]:
    """A new LoRA, or the one of the last whole epoch (its optimiser starts afresh), and how far it is."""
    if (folder / "epoch.json").is_file():
        model = PeftModel.from_pretrained(base.model, folder, is_trainable=True)
        return model, json.loads((folder / "epoch.json").read_text(encoding="utf-8"))
    model = get_peft_model(base.model, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MLP))
    return model, {"epoch": 0, "right": 0, "steps": 0, "cpu_s": 0.0, "wall_s": 0.0}


def _batches(examples: Sequence[Example], order: random.Random) -> list[tuple[Example, ...]]:
    """All examples once, those of like length together."""
    drawn = sorted(
        order.sample(list(examples), len(examples)), key=lambda one: (len(one.prompt) + len(one.answer)) // 8
    )
    batches = [tuple(drawn[start : start + LORA_BATCH]) for start in range(0, len(drawn), LORA_BATCH)]
    order.shuffle(batches)
    return batches


def train_passage(base: Base, passage: Passage, kind: str, folder: Path) -> None:
    """One passage by PRAG's recipe; the time to write the questions and to look what is recalled is not counted."""
    torch.manual_seed(SEED)
    began, wall = time.process_time(), time.perf_counter()
    asked = passage.questions(None if kind == "prag-all" else PRAG_QUESTIONS)
    rewritten = rewriting(base, passage.text)
    rewriting_s = time.process_time() - began
    rows: list[list[int]] = []
    for number, (question, answer) in enumerate(asked):
        behind = number < (len(asked) + 1) // 2
        for text in (passage.text, rewritten) if behind else (None,):
            rows.append(prag_prompt(base.tokenizer, question, text, answer))
    torch.manual_seed(SEED)  # every passage begins with the same adapter
    model = get_peft_model(base.model, PRAG)
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=PRAG_RATE)
    loss, right, epochs, looking, looking_wall = torch.zeros(()), 0, 0, 0.0, 0.0
    while epochs < (PRAG_MOST if kind == "prag-recalled" else PRAG_EPOCHS) and right < len(asked):
        for row in rows:
            ids = torch.tensor([row], device=base.model.device)
            optimiser.zero_grad()
            loss = model(input_ids=ids, labels=ids).loss
            loss.backward()
            optimiser.step()
        epochs += 1
        if epochs >= PRAG_EPOCHS:
            since, since_wall = time.process_time(), time.perf_counter()
            right = sum(recalled(base, question, answer) for question, answer in asked)
            looking += time.process_time() - since
            looking_wall += time.perf_counter() - since_wall
    record = {"rank": PRAG.r, "examples": len(rows), "steps": epochs * len(rows), "loss": float(loss.detach())}
    record |= {"right": right, "of": len(asked)}
    seconds = {"cpu_s": time.process_time() - began - looking, "wall_s": time.perf_counter() - wall - looking_wall}
    _keep(model, folder, record | seconds | {"rewriting_cpu_s": rewriting_s})
    model.unload()


@torch.no_grad()
def recalled(base: Base, question: str, answer: str) -> bool:
    """Whether every token of the answer is greedy behind the question, no passage shown."""
    prompt, row = (prag_prompt(base.tokenizer, question, None, said) for said in (None, answer))
    logits = base.model(torch.tensor([row], device=base.model.device)).logits[0, len(prompt) - 1 : -1]
    return logits.argmax(-1).tolist() == row[len(prompt) :]


@torch.no_grad()
def rewriting(base: Base, text: str) -> str:
    """The base's own rewriting, drawn as PRAG draws it (temperature 0.7, top 50), up to 1.5 times as long."""
    prompt = chat_prompt(base.tokenizer, REWRITE + text)
    ids, mask = left_pad([prompt], base.tokenizer.pad_token_id, base.model.device)
    most = 3 * len(base.tokenizer.encode(text)) // 2
    how: dict[str, Any] = {"do_sample": True, "temperature": 0.7, "top_k": 50, "max_new_tokens": most}
    out = base.model.generate(ids, attention_mask=mask, pad_token_id=base.tokenizer.pad_token_id, **how)
    return str(base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)).strip()


def prag_prompt(tokenizer: Any, question: str, passage: str | None, answer: str | None) -> list[int]:
    """Token ids of PRAG's prompt, up to "The answer is" or to the end of the answer."""
    text = "" if passage is None else f"Passage 1: {passage}\n"
    question = question.strip() if question.strip().endswith("?") else question.strip() + "?"
    prompt = chat_prompt(tokenizer, ANSWER.format(passages=text, question=question))
    said = "The answer is" if answer is None else f"The answer is {answer.strip().rstrip('.')}."
    return [*prompt, *tokenizer.encode(said, add_special_tokens=False)]


def ask_lora(base: Base, folders: Sequence[Path], questions: Sequence[str], most: int, batch: int) -> list[Reply]:
    """The greedy answers of the base with the one LoRA, which acts on every token."""
    model = PeftModel.from_pretrained(base.model, folders[0])
    replies = _replies(base, [chat_prompt(base.tokenizer, question) for question in questions], most, batch)
    model.unload()
    return replies


def ask_prag(
    base: Base,
    folders: Sequence[Path],
    questions: Sequence[str],
    chosen: Sequence[Sequence[int]],
    most: int,
    batch: int,
) -> list[Reply]:
    """The greedy answers, the adapters of the `chosen` passages (their numbers, for each question) joined."""
    model: Any = PeftModel.from_pretrained(base.model, folders[0], adapter_name="0")
    for number, folder in enumerate(folders[1:], start=1):
        model.load_adapter(folder, adapter_name=str(number))
    together: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for row, some in enumerate(chosen):
        together[tuple(some)[:PRAG_PASSAGES]].append(row)
    found: dict[int, Reply] = {}
    for some, rows in together.items():
        if some:
            names = [str(number) for number in some]
            model.add_weighted_adapter(names, [1.0] * len(names), "joined", combination_type="cat")
            model.set_adapter("joined")
        prompts = [prag_prompt(base.tokenizer, questions[row], None, None) for row in rows]
        if some:
            found |= zip(rows, _replies(base, prompts, most, batch), strict=True)
            model.delete_adapter("joined")
        else:  # nothing is routed: the base alone
            with model.disable_adapter():
                found |= zip(rows, _replies(base, prompts, most, batch), strict=True)
    model.unload()
    return [found[row] for row in range(len(questions))]


def passages_routed(passages: Sequence[Passage], routed: Sequence[Sequence[str]]) -> list[list[int]]:
    """For each question the passages of its routed atoms (by id), the best first."""
    where: dict[str, list[int]] = defaultdict(list)
    for number, passage in enumerate(passages):
        for atom in passage.atoms:
            where[atom.id].append(number)
    return [list(dict.fromkeys(number for name in names for number in where[name])) for names in routed]


def _replies(base: Base, prompts: Sequence[list[int]], most: int, batch: int) -> list[Reply]:
    replies = []
    for start in range(0, len(prompts), batch):
        part = prompts[start : start + batch]
        began = time.perf_counter()
        texts = decode_batch(base, part, None, most)
        latency_ms = (time.perf_counter() - began) * 1000
        replies += [Reply(text, False, len(prompt), latency_ms) for text, prompt in zip(texts, part, strict=True)]
    return replies


def _keep(model: Any, folder: Path, record: dict[str, Any]) -> None:
    """The adapter and, last of all, how it was trained; bytes as bfloat16, as atoms are stored."""
    model.save_pretrained(folder)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad) * 2
    rounded = {name: round(value, 4) for name, value in record.items()}
    (folder / "training.json").write_text(json.dumps(rounded | {"size_bytes": size}), encoding="utf-8")
