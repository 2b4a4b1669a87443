"""The frozen distractor pool, the silence bank and the whitening of a base and recipe.

Atoms must stand beside atoms that were never trained with them. So the neighbours of training are not batch mates
but one frozen pool, trained once per base and recipe from a fixed list of invented facts and kept in the user's
cache: the same input then gives the same atoms, whatever they are compiled with. (Trained beside distractors,
adapters hold at twenty; untrained they collapse at three: Knowledge Modules, arXiv 2503.08727.)
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from atomlora.atom import Target, digest_json, record_size
from atomlora.bases import Base, cache_folder
from atomlora.prompts import chat_prompt
from atomlora.router.general_questions import GENERAL_QUESTIONS
from atomlora.runtime.decoding import base_answers
from atomlora.settings import CompileSettings
from atomlora.training.adapters import FrozenPool, StackedAdapters, pool_from_records
from atomlora.training.moments import MOMENT_TOKENS, input_moments
from atomlora.training.objective import CandidateHead
from atomlora.training.pool_facts import POOL_FACTS
from atomlora.training.silence import SilenceBank, build_bank
from atomlora.training.trainer import AtomJob, Trainer
from atomlora.training.trunk import Example, Trunk
from atomlora.training.whitening import LowRank, Whitener, whiteners

_log = logging.getLogger(__name__)
_FORMAT = 2
_LOW_RANK = ("directions", "gains", "rest")


@dataclass(frozen=True)
class PoolRecords:
    """What is cached: the pool atoms' records, the base's own first answer tokens to the general questions, and what
    whitens each target's inputs (None where the settings want none)."""

    records: tuple[np.ndarray, ...]
    answers: tuple[tuple[int, ...], ...]
    whitening: tuple[Whitener, ...] | None


def pool_facts(settings: CompileSettings) -> tuple[tuple[str, str, tuple[str, ...]], ...]:
    return POOL_FACTS[: settings.train.pool_atoms]


def pool_digest(base_fingerprint: str, settings: CompileSettings) -> str:
    """Names a pool: base, recipe, facts and general questions."""
    return digest_json([_FORMAT, base_fingerprint, settings.recipe(), pool_facts(settings), GENERAL_QUESTIONS])


def load_or_train_pool(
    base: Base,
    trunk: Trunk,
    targets: tuple[Target, ...],
    settings: CompileSettings,
    on_progress: Callable[[int, int], None],
) -> PoolRecords:
    """The cached pool of this base and recipe, trained now if there is none or the file does not fit."""
    path = cache_folder() / "pools" / f"{pool_digest(base.fingerprint, settings)}.safetensors"
    size = record_size(settings.adapter.rank, targets)
    cached = _read(path, len(pool_facts(settings)), size, base.model.device)
    if cached is not None:
        return cached
    facts = pool_facts(settings)
    on_progress(0, len(facts))
    answers = base_answers(base, GENERAL_QUESTIONS, max(MOMENT_TOKENS, settings.train.silence_tokens))
    whitening = None
    if settings.train.damping is not None:
        stated = [example for _, text, questions in facts for example in _examples(base, text, questions)]
        moments = input_moments(trunk, targets, [*general_examples(base, answers, MOMENT_TOKENS), *stated])
        whitening = whiteners(moments, settings.train.damping)
    bank = None
    if settings.train.silent:
        general = general_examples(base, answers, settings.train.silence_tokens)
        bank = build_bank(trunk, CandidateHead(base.model), general)
    adapter, train = settings.adapter, settings.train
    trainer = Trainer(base.model, trunk, targets, adapter, train, settings.slots, bank, whitening=whitening)
    jobs = [AtomJob(digest_json([title, text]), _examples(base, text, questions)) for title, text, questions in facts]
    found: dict[str, np.ndarray] = {}
    learnt = 0
    for trained in trainer.run(jobs):
        found[trained.identity] = trained.record
        learnt += all(trained.passed)
        on_progress(len(found), len(jobs))
    if learnt * 2 < len(jobs):
        _log.warning(
            "only %d of %d training distractors were learnt on %s: its atoms will hardly be learnt either; look at "
            "their recall with `atomlora show`, and try another base",
            learnt,
            len(jobs),
            base.name,
        )
    pool = PoolRecords(tuple(found[job.identity] for job in jobs), tuple(answers), whitening)
    _write(path, pool)
    return pool


def neighbours_and_bank(
    base: Base, trunk: Trunk, targets: tuple[Target, ...], pool: PoolRecords, settings: CompileSettings
) -> tuple[FrozenPool | None, SilenceBank | None]:
    """What the trainer mounts beside its atoms and what it keeps them silent on; None where the settings want none."""
    shape, neighbours = settings.adapter, None
    if pool.records:
        neighbours = pool_from_records(pool.records, shape.rank, shape.alpha, targets, base.model.device)
    if not settings.train.silent:
        return neighbours, None
    known = [
        Example(example.prompt, example.answer[: settings.train.silence_tokens])
        for _, text, questions in pool_facts(settings)
        for example in _examples(base, text, questions)
    ]
    general = general_examples(base, pool.answers, settings.train.silence_tokens)
    adapters = StackedAdapters(base.model, targets, 1, shape.rank, shape.alpha, neighbours)
    return neighbours, build_bank(trunk, CandidateHead(base.model), general, known, adapters)


def _examples(base: Base, text: str, questions: Sequence[str]) -> tuple[Example, ...]:
    return tuple(Example.asked(base.tokenizer, question, text) for question in questions)


def general_examples(base: Base, answers: Sequence[Sequence[int]], tokens: int) -> list[Example]:
    """The general questions with the first tokens of the base's own answers."""
    asked = zip(GENERAL_QUESTIONS, answers, strict=True)
    return [Example(tuple(chat_prompt(base.tokenizer, question)), tuple(answer[:tokens])) for question, answer in asked]


def _read(path: Path, atoms: int, size: int, device: Any) -> PoolRecords | None:
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            records = file.get_tensor("records") if atoms else np.zeros((0, size), np.uint16)
            metadata = file.metadata() or {}
            answers, reads = json.loads(metadata["answers"]), json.loads(metadata["whitening"])
            whitening = None
            if reads is not None:
                made = {name: _whitener(file, name).to(device) for name in set(reads)}
                whitening = tuple(made[name] for name in reads)
        if records.shape == (atoms, size) and len(answers) == len(GENERAL_QUESTIONS):
            return PoolRecords(tuple(records), tuple(tuple(a) for a in answers), whitening)
        reason = "it has another shape"
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = str(error)
    _log.warning("%s: the cached distractor pool cannot be used (%s); it is trained again", path, reason)
    return None


def _parts(name: str, whitener: Whitener) -> dict[str, Tensor]:
    """A whitener's tensors by their names in the file."""
    if isinstance(whitener, Tensor):
        return {name: whitener}
    return {f"{name}.{part}": getattr(whitener, part) for part in _LOW_RANK}


def _whitener(file: Any, name: str) -> Whitener:
    if name in set(file.keys()):
        return torch.from_numpy(file.get_tensor(name))
    return LowRank(*(torch.from_numpy(file.get_tensor(f"{name}.{part}")) for part in _LOW_RANK))


def _write(path: Path, pool: PoolRecords) -> None:
    """Whole or not at all; a pool that cannot be cached is only slower next time."""
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=".pool-")
        os.close(descriptor)
        tensors = {"records": np.stack(pool.records) if pool.records else np.zeros((0, 1), np.uint16)}
        reads = None
        if pool.whitening is not None:  # of targets that read the same input, the first one's name stands for all
            names = {id(one): f"whitening.{i}" for i, one in reversed(list(enumerate(pool.whitening)))}
            for one in pool.whitening:
                tensors |= {name: part.cpu().numpy() for name, part in _parts(names[id(one)], one).items()}
            reads = [names[id(one)] for one in pool.whitening]
        save_file(tensors, temporary, metadata={"answers": json.dumps(pool.answers), "whitening": json.dumps(reads)})
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        _log.warning("%s: the distractor pool cannot be cached (%s)", path, error)
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
