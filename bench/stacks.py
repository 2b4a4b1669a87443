"""What `bench/interference.py` works on: atoms of one run and of another, one router over both, people's questions;
and how a stack of them speaks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from atomlora.atom import Atom, split_record
from atomlora.bases import Base, load_base
from atomlora.errors import InputError
from atomlora.full_context import rebuilder
from atomlora.golden import GoldenQuestion
from atomlora.interference.asked import golden_questions
from atomlora.interference.lab import Stack, frozen_pool
from atomlora.kernels import AdapterPool
from atomlora.model import STEADY
from atomlora.prompts import chat_prompt
from atomlora.router import Calibration, Router, load_embedder
from atomlora.runtime.composition import composition
from atomlora.runtime.decoding import decode_batch, decode_steady
from atomlora.runtime.keys import open_routes, store_documents, store_keys
from atomlora.runtime.mount import Mount, pool_targets
from atomlora.statements import nearest_wording
from atomlora.store import Store

CANDIDATES = 64
BATCH = 16
MOST_ATOMS = 16  # of a stack


class Found(NamedTuple):
    """An atom (its number) that the router finds for a question: its gate, its fused score."""

    atom: int
    gate: float
    score: float


class Question(NamedTuple):
    """A golden question, the one atom that answers it, and what the router finds for it, best first."""

    golden: GoldenQuestion
    own: Found
    routed: tuple[Found, ...]


Merged = Sequence[tuple[Tensor, Tensor]]  # per target A (R, d_in) and Bt (R, d_out)


Weigh = Callable[[Sequence[Found]], Stack]


def at_gates(found: Sequence[Found]) -> Stack:
    return Stack(tuple(one.atom for one in found), tuple(one.gate for one in found))


def in_turn(found: Sequence[Found]) -> Stack:
    return Stack(tuple(one.atom for one in found), (1.0, *(one.gate for one in found[1:])))


def at_one(found: Sequence[Found]) -> Stack:
    return Stack.at_one(*(one.atom for one in found))


def convex(found: Sequence[Found]) -> Stack:
    total = sum(one.gate for one in found) or 1.0
    return Stack(tuple(one.atom for one in found), tuple(one.gate / total for one in found))


def softmax(found: Sequence[Found]) -> Stack:
    scores = np.array([one.score for one in found])
    shares = np.exp(scores - scores.max())
    return Stack(tuple(one.atom for one in found), tuple((shares / shares.sum()).tolist()))


def first(found: Sequence[Found]) -> Stack:
    return Stack.at_one(max(found, key=lambda one: one.score).atom)


SUMS: dict[str, Weigh] = {
    "gates": at_gates,
    "turns": in_turn,
    "unit": at_one,
    "convex": convex,
    "softmax": softmax,
    "top1": first,
}


def company(
    world: World, question: Question, k: int, others: str, run: str, random: np.random.Generator
) -> list[Found]:
    """The question's own atom and up to k - 1 others of that kind and run, with gates and scores."""
    ranked = [one for one in question.routed if world.run[one.atom] == run][: k - 1]
    if others == "nearest":
        return [question.own, *ranked]
    text = world.atoms[question.own.atom].text
    strangers = [n for n, atom in enumerate(world.atoms) if world.run[n] == run and atom.text != text]
    drawn = random.permutation(strangers)[: len(ranked)].tolist()
    return [question.own, *(Found(atom, one.gate, one.score) for atom, one in zip(drawn, ranked, strict=True))]


class World:
    """Atoms of the store, numbered as there, then those of `other`, which another run has compiled; asked `golden`,
    `limit` of those that one atom of the store answers."""

    def __init__(self, store: Store, other: Store | None, golden: Sequence[GoldenQuestion], limit: int) -> None:
        self.store, self.targets = store, store.manifest.targets
        stores = [store] if other is None else [store, other]
        if any((one.manifest.targets, one.manifest.base) != (self.targets, store.manifest.base) for one in stores):
            raise InputError(f"{other and other.path}: its base or its targets are not those of {store.path}")
        self.base: Base = load_base(store.manifest.base.name)
        self.atoms: list[Atom] = [atom for one in stores for atom in one.atoms()]
        self.run = ["same" if one is store else "other" for one in stores for _ in range(len(one))]
        self._records = [one.weights(atom.id) for one in stores for atom in one.atoms()]
        self.pool = frozen_pool(self.atoms, self._records, self.targets, self.base.model.device)
        self.one_adapter = self._one_adapter()
        self.document = rebuilder(store)
        self.router = self._router(stores)
        self.questions = self._questions(golden, limit)
        rank = max(atom.rank for atom in self.atoms)
        self._slots = AdapterPool(pool_targets(self.targets), capacity=BATCH * MOST_ATOMS, rank=rank)
        self._mount = Mount(self.base.model, self.targets, self._slots)

    def _one_adapter(self) -> Merged | None:
        """The store's one adapter for everything, its scaling in Bt; None where it was compiled without."""
        if (found := self.store.one_adapter()) is None:
            return None
        atom, record = found
        pool = frozen_pool([atom], [record], self.targets, self.base.model.device)
        return [(a[0], bt[0]) for a, bt in pool.factors]

    def _router(self, stores: Sequence[Store]) -> Router:
        """One router over all atoms, which it calls by their numbers; calibrated as the first store."""
        manifest = stores[0].manifest
        kept = [one.keys() for one in stores]
        starts = np.cumsum([0, *(len(one) for one in stores)])
        texts = [text for one in stores for _, text in store_keys(list(one.atoms()))]
        return Router(
            load_embedder(manifest.embedder.name),
            np.concatenate([embeddings for embeddings, _ in kept]),
            np.concatenate([positions + start for (_, positions), start in zip(kept, starts, strict=False)]),
            [str(number) for number in range(len(self.atoms))],
            texts,
            Calibration.model_validate(manifest.calibration),
            documents=store_documents(self.atoms),
        )

    def _questions(self, golden: Sequence[GoldenQuestion], limit: int) -> list[Question]:
        found = golden_questions(golden, self.atoms[: len(self.store)], limit)
        if not found:
            raise InputError("none of the golden questions is answered by exactly one atom of the store")
        known = {one.question: one for one in golden}
        questions = []
        for (text, own, _), ranked in zip(found, self.route([text for text, _, _ in found]), strict=True):
            mine = next((one for one in ranked if one.atom == own), Found(own, 0.0, 0.0))
            others = [one for one in ranked if self.atoms[one.atom].text != self.atoms[own].text]
            questions.append(Question(known[text], mine, tuple(others)))
        return questions

    def route(self, questions: Sequence[str]) -> list[list[Found]]:
        """What the router finds for each question, best first, abstaining and the floor under gates left out."""
        routes = open_routes(self.router).route_batch(questions, CANDIDATES)
        return [[Found(int(atom.id), atom.weight, atom.score) for atom in route.atoms] for route in routes]

    def say(self, prompts: Sequence[list[int]], stacks: Sequence[Stack], max_new_tokens: int) -> list[str]:
        """The greedy answer to each prompt, `stacks[i]` mounted."""
        return [text for text, _ in self._decode(prompts, stacks, max_new_tokens, 0.0)]

    def say_steady(self, questions: Sequence[str], stacks: Sequence[Stack], max_new_tokens: int) -> list[str]:
        """The same as the product says it: what loses its thread is asked again of the stack's first atom, alone, in
        the nearest wording that it was trained on (see `atomlora.statements`)."""
        tokenizer = self.base.tokenizer
        said = self._decode([chat_prompt(tokenizer, one) for one in questions], stacks, max_new_tokens, STEADY)
        texts = [text for text, _ in said]
        lost = [number for number, (_, was_lost) in enumerate(said) if was_lost]
        leaders = [stacks[number].atoms[0] for number in lost]
        embedder = self.router.embedder
        again = [
            chat_prompt(tokenizer, nearest_wording(self.atoms[leader], questions[number], embedder))
            for number, leader in zip(lost, leaders, strict=True)
        ]
        for number, text in zip(
            lost, self.say(again, [Stack.at_one(leader) for leader in leaders], max_new_tokens), strict=True
        ):
            texts[number] = text
        return texts

    def _decode(
        self, prompts: Sequence[list[int]], stacks: Sequence[Stack], max_new_tokens: int, least: float
    ) -> list[tuple[str, bool]]:
        found = [("", False)] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda number: len(prompts[number]))
        for start in range(0, len(order), BATCH):
            part = order[start : start + BATCH]
            width = max(len(prompts[number]) for number in part)
            names = [[str(atom) for atom in stacks[number].atoms] for number in part]
            flat = [name for some in names for name in some]
            with self._slots.mounted(flat, self._load) as slots:
                taken = iter(slots)
                mounted = composition(
                    [[next(taken) for _ in some] for some in names],
                    [list(stacks[number].weights) for number in part],
                    [width - 1] * len(part),
                    pool=self._slots,
                )
                said = decode_steady(
                    self.base,
                    [prompts[number] for number in part],
                    mounted if flat else None,
                    max_new_tokens,
                    [least] * len(part),
                )
            for number, one in zip(part, said, strict=True):
                found[number] = one
        return found

    def say_merged(self, prompt: list[int], merged: Merged, max_new_tokens: int) -> str:
        """The greedy answer to a prompt with one merged adapter at weight 1."""
        rank = merged[0][0].shape[0]
        pool = AdapterPool(pool_targets(self.targets), capacity=1, rank=rank, dtype=torch.float32)
        with Mount(self.base.model, self.targets, pool), pool.mounted(["merged"], lambda _: (merged, 1.0)) as slots:
            mounted = composition([slots], [[1.0]], [len(prompt) - 1], pool=pool)
            return decode_batch(self.base, [prompt], mounted, max_new_tokens)[0]

    def _load(self, name: str) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
        atom = self.atoms[int(name)]
        return split_record(self._records[int(name)], atom.rank, self.targets), atom.scaling
