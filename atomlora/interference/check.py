"""`check`: what a store's atoms do to each other and to everything else, in one report."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from atomlora.atom import Atom, Record
from atomlora.defaults import TOP_K
from atomlora.errors import InputError
from atomlora.golden import GoldenQuestion
from atomlora.interference.asked import golden_questions, own_questions, routed_questions
from atomlora.interference.lab import Lab, Stack
from atomlora.interference.measure import measure
from atomlora.interference.near import nearest
from atomlora.interference.off_topic import Changed, base_examples, changed, mean_kl, repeats, wrong_atoms
from atomlora.interference.predict import Predictor
from atomlora.interference.records import InterferenceRecords
from atomlora.interference.stacking import KS, StackedRecall, stacked_recall, stacks_of
from atomlora.interference.unseen_questions import UNSEEN_QUESTIONS
from atomlora.metrics import bootstrap_interval, mean
from atomlora.router import EVERYTHING
from atomlora.settings import InterferenceSettings
from atomlora.spread import evenly

if TYPE_CHECKING:
    from atomlora.model import AtomLoRA
    from atomlora.router import Route

Stage = Literal["measure", "stack", "off topic"]
Progress = Callable[[Stage, int, int], None]


class CheckSettings(Record):
    """`questions`: on how many stacked recall is taken; `off_topic`: of how many unseen general questions, each under
    `wrong_atoms` atoms and with at most `tokens` tokens of the base's answer."""

    questions: int = Field(64, ge=1)
    off_topic: int = Field(len(UNSEEN_QUESTIONS), ge=1, le=len(UNSEEN_QUESTIONS))
    wrong_atoms: int = Field(3, ge=1)
    tokens: int = Field(48, ge=1)
    seed: int = 0


class CheckedPair(Record):
    """`b` beside `a`, both at weight 1 (see `PairRecord`); `damage`: predicted loss of recall of `a`, in points."""

    a: str
    b: str
    delta_nll: float
    peak: float
    half_peak: float
    overlap: float
    kl: float
    flips: float
    damage: float


class OffTopic(Record):
    """`n` answers to general questions that no training saw, one wrong atom mounted at weight 1: mean KL(base ||
    composed) per token in nats, and the share of greedy answers that stay the same string. `routed_unchanged`: the same
    share with routing and abstaining on, of `questions`. `loops`: share of the base's own answers that repeat
    themselves, which no answer with atoms may (see `atomlora.runtime.loops`), so these change whatever atoms do."""

    kl: float
    unchanged: float
    interval: tuple[float, float]
    routed_unchanged: float
    abstained: float
    loops: float
    n: int
    questions: int


class CheckReport(Record):
    """`pairs`: all measured ones, the most harmful first, `worst` the first of them; `recorded`: whether they came with
    the store or were measured now. `asked`: `own` training questions, or `golden` ones."""

    store: str
    version: str
    atoms: int
    recorded: bool
    pairs: tuple[CheckedPair, ...]
    worst: CheckedPair | None
    stacked_recall: tuple[StackedRecall, ...]
    asked: Literal["own", "golden"]
    off_topic_kl: float
    off_topic: OffTopic
    seconds: float


def check_store(
    model: AtomLoRA,
    settings: CheckSettings | None = None,
    golden: Sequence[GoldenQuestion] | None = None,
    on_progress: Progress = lambda _stage, _done, _total: None,
) -> CheckReport:
    """Check the version that `model` has open. Its records are taken where they are there, else measured (and not kept:
    see `atomlora.interference.remeasure`). `golden` are people's questions, to ask instead of the atoms' own.

    Raises InputError when the version has no atom, or no golden question fits exactly one of its atoms.
    """
    settings, began = settings or CheckSettings(), time.perf_counter()
    store, atoms = model.store, stackable(model)
    if not atoms:
        raise InputError(f"{store.path}: the version has no atom to check")
    if golden is None:
        questions = own_questions(atoms, settings.questions)
    elif not (questions := golden_questions(golden, atoms, settings.questions)):
        raise InputError("--golden: none of its questions is answered by exactly one atom of its source")
    lab = Lab(model.base, store.manifest.targets)
    records, recorded = store.interference(), True
    if records is None:
        records, recorded = measured_now(model, lab, on_progress), False
    pairs = checked_pairs(records)
    off_topic = _off_topic(model, lab, atoms, settings, on_progress)
    return CheckReport(
        store=store.url or str(store.path),
        version=store.version,
        atoms=len(atoms),
        recorded=recorded,
        pairs=pairs,
        worst=pairs[0] if pairs else None,
        stacked_recall=_stacked(model, lab, questions, settings.seed, on_progress),
        asked="own" if golden is None else "golden",
        off_topic_kl=off_topic.kl,
        off_topic=off_topic,
        seconds=round(time.perf_counter() - began, 3),
    )


def stackable(model: AtomLoRA) -> list[Atom]:
    """The atoms that a question can be routed to, in the catalogue's order, which begins with them; behaviours stand
    beside whatever is routed, and have neither keys nor questions of their own."""
    return [atom for atom in model.atoms.values() if atom.mount == "routed"]


def measured_now(
    model: AtomLoRA, lab: Lab, on_progress: Progress, before: InterferenceRecords | None = None
) -> InterferenceRecords:
    """Records of the open version's atoms, by the settings that it was compiled with."""
    store, atoms = model.store, stackable(model)
    how = InterferenceSettings.model_validate(store.manifest.settings.get("interference", {}))
    return measure(
        lab,
        atoms,
        lambda atom: store.weights(atom.id),
        nearest(*store.keys(), len(atoms), how.neighbours),
        how.probes,
        before,
        lambda done, total: on_progress("measure", done, total),
    )


def checked_pairs(records: InterferenceRecords) -> tuple[CheckedPair, ...]:
    """All recorded pairs with what is predicted of them, the most harmful first."""
    predictor = Predictor.of(records)
    found = [
        CheckedPair(
            a=a,
            b=b,
            damage=round(predictor.stack((a, b), (1.0, 1.0))[0].damage, 2),
            **pair.model_dump(exclude={"other"}),
        )
        for (a, b), pair in records.pairs.items()
    ]
    return tuple(sorted(found, key=lambda pair: (-pair.damage, -pair.delta_nll, pair.a, pair.b)))


def _stacked(
    model: AtomLoRA,
    lab: Lab,
    questions: Sequence[tuple[str, int, str]],
    seed: int,
    on_progress: Progress,
) -> tuple[StackedRecall, ...]:
    atoms = stackable(model)
    asked = routed_questions(questions, model.router, atoms)
    near = nearest(*model.store.keys(), len(atoms), max(KS) - 1)
    ks = [k for k in KS if k <= len(atoms)]
    plan = {
        (k, others, weights): stacks_of(asked, near, len(atoms), k, others, weights, seed)
        for k in ks
        for others in ("nearest", "random")
        for weights in ("unit", "gates")
    }
    flat = [stack for stacks in plan.values() for stack in stacks]
    placed = iter(lab.mount_for(atoms, lambda atom: model.store.weights(atom.id), flat))
    mounted = {key: [next(placed) for _ in stacks] for key, stacks in plan.items()}
    return tuple(
        stacked_recall(
            lab,
            asked,
            lambda k, others, weights: mounted[k, others, weights],
            ks,
            lambda done, total: on_progress("stack", done, total),
        )
    )


def _off_topic(
    model: AtomLoRA, lab: Lab, atoms: Sequence[Atom], settings: CheckSettings, on_progress: Progress
) -> OffTopic:
    questions = evenly(UNSEEN_QUESTIONS, settings.off_topic)
    on_progress("off topic", 0, 2)
    examples = base_examples(model.base, questions, settings.tokens)
    on_progress("off topic", 1, 2)
    number = {atom.id: at for at, atom in enumerate(atoms)}
    each = min(settings.wrong_atoms, len(atoms))
    wrong = [Stack.at_one(atom) for atom in wrong_atoms(len(atoms), len(questions), each, settings.seed)]
    routes = model.router.route_batch(questions, TOP_K, EVERYTHING)
    routed = [_led(number, route) for route in routes]
    placed = lab.mount_for(atoms, lambda atom: model.store.weights(atom.id), [*wrong, *routed])
    picks = [*(at // each for at in range(len(wrong))), *range(len(questions))]
    found = changed(lab, examples, picks, placed)
    on_progress("off topic", 2, 2)
    mounted, served = found[: len(wrong)], found[len(wrong) :]
    low, high = bootstrap_interval(_same(mounted))
    return OffTopic(
        kl=round(mean_kl(mounted), 5),
        unchanged=round(mean(_same(mounted)), 4),
        interval=(round(low, 4), round(high, 4)),
        routed_unchanged=round(mean(_same(served)), 4),
        abstained=round(mean([float(route.abstained) for route in routes]), 4),
        loops=round(mean([float(repeats(example.answer)) for example in examples]), 4),
        n=len(mounted),
        questions=len(questions),
    )


def _led(number: dict[str, int], route: Route) -> Stack:
    """What the first statement of a routed answer mounts; nothing where the router abstained."""
    return Stack(
        tuple(number[atom.id] for atom in route.atoms),
        tuple(1.0 if place == 0 else atom.weight for place, atom in enumerate(route.atoms)),
    )


def _same(found: Sequence[Changed]) -> list[float]:
    return [float(one.same) for one in found]
