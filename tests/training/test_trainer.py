"""Many atoms at once: recall, early exit, refilled slots, independence of batch mates, reproducibility."""

import hashlib

import numpy as np
import pytest
import torch

from atomlora.atom import record_size, split_record
from atomlora.settings import AdapterSettings, TrainSettings
from atomlora.training.adapters import Mixture, StackedAdapters, pool_from_records
from atomlora.training.silence import build_bank
from atomlora.training.trainer import AtomJob, Trainer
from atomlora.training.trunk import IGNORED, Trunk, late_forward

ADAPTER = AdapterSettings(rank=4, layers="late:2")
QUICK = TrainSettings(max_steps=60, silence_rows=0, mixed_visibility=0.5)


@pytest.fixture
def jobs(make_examples):
    """Six atoms of one to three questions each; each atom's questions have one answer."""
    made = []
    for number in range(6):
        prompts = make_examples(1 + number % 3, seed=10 + number)
        answer = make_examples(1, seed=50 + number, answers=(3, 5))[0].answer
        examples = tuple(type(p)(p.prompt, answer) for p in prompts)
        made.append(AtomJob(hashlib.sha256(str(number).encode()).hexdigest(), examples))
    return made


def train(llama, targets, jobs, slots=6, settings=QUICK, bank=None, pool=None):
    trainer = Trainer(llama, Trunk(llama, 1, (), 0), targets, ADAPTER, settings, slots, bank, pool)
    return {atom.identity: atom for atom in trainer.run(jobs)}


def wide(record):
    return (record.astype(np.uint32) << 16).view(np.float32)


def product(record, targets):
    """The flat deltas B A: factors may differ where their products do not."""
    return np.concatenate([(bt.T @ a).ravel() for a, bt in split_record(wide(record), 4, targets)])


def test_learns_every_fact_and_says_so_truly(llama, targets, jobs):
    trained = train(llama, targets, jobs)
    assert set(trained) == {job.identity for job in jobs}
    for job in jobs:
        atom = trained[job.identity]
        assert atom.passed == (True,) * len(job.examples)
        assert 1 < atom.steps < 60
        assert atom.record.shape == (record_size(4, targets),)
        assert greedy_right(llama, targets, atom.record, job) == list(atom.passed)


@torch.no_grad()
def greedy_right(llama, targets, record, job):
    """Merge the stored record densely into the late MLPs and decode at answer positions: no code of the trainer."""
    found = []
    for example in job.examples:
        ids = torch.tensor([[*example.prompt, *example.answer[:-1]]])
        at = len(example.prompt) - 1
        handles = []
        for target, (a, bt) in zip(targets, split_record(wide(record), 4, targets), strict=True):
            delta = 2.0 * torch.from_numpy(bt.T @ a)

            def add(_m, args, y, delta=delta):
                y = y.clone()
                y[:, at:] += args[0][:, at:] @ delta.T  # noqa: B023
                return y

            module = llama.model.layers[target.layer].get_submodule(target.module)
            handles.append(module.register_forward_hook(add))
        logits = llama(ids).logits[0, at:]
        for handle in handles:
            handle.remove()
        found.append(logits.argmax(-1).tolist() == list(example.answer))
    return found


def test_untrained_base_knows_none(llama, targets, jobs):
    nothing = np.zeros(record_size(4, targets), np.uint16)
    assert not any(right for job in jobs for right in greedy_right(llama, targets, nothing, job))


@pytest.mark.parametrize("slots", [2, 3])
def test_batch_mates_and_slots_do_not_matter(llama, targets, jobs, slots, make_examples):
    bank = bank_of(llama, targets, make_examples)
    settings = QUICK.model_copy(update={"silence_rows": 1, "max_steps": 12, "pass_probability": 0.99})
    among = train(llama, targets, jobs, 6, settings, bank)
    few = train(llama, targets, jobs[::-1], slots, settings, bank)
    alone = train(llama, targets, [jobs[2]], 1, settings, bank)
    assert set(among) == set(few)
    for others in (few, alone):
        for identity, atom in others.items():
            mate = among[identity]
            assert (atom.passed, atom.steps) == (mate.passed, mate.steps)
            first, second = product(atom.record, targets), product(mate.record, targets)
            # bfloat16 keeps 8 bits, and Adam's first steps are signs: noise may turn single elements over.
            assert np.linalg.norm(first - second) < 0.05 * np.linalg.norm(second)


def bank_of(llama, targets, make_examples):
    trunk = Trunk(llama, 1, (), 0)
    trainer = Trainer(llama, trunk, targets, ADAPTER, QUICK, 1)
    return build_bank(trunk, trainer.head, make_examples(5, seed=90, answers=(4, 4)))


def test_bit_for_bit_at_the_same_batch_plan(llama, targets, jobs, make_examples):
    bank = bank_of(llama, targets, make_examples)
    settings = QUICK.model_copy(update={"silence_rows": 2, "max_steps": 8})
    first, second = (train(llama, targets, jobs, 4, settings, bank) for _ in range(2))
    assert list(first) == list(second)
    for identity, atom in first.items():
        np.testing.assert_array_equal(atom.record, second[identity].record)
        assert (atom.steps, atom.loss, atom.passed) == (
            second[identity].steps,
            second[identity].loss,
            second[identity].passed,
        )


def test_what_cannot_be_learnt_is_reported(llama, targets, jobs):
    trained = train(llama, targets, jobs, settings=QUICK.model_copy(update={"max_steps": 1}))
    assert set(trained) == {job.identity for job in jobs}
    for job in jobs:
        atom = trained[job.identity]
        assert atom.steps == 1
        assert not all(atom.passed)
        assert atom.loss > 0.1
        assert greedy_right(llama, targets, atom.record, job) == list(atom.passed)


@pytest.mark.parametrize("value", [float("nan"), 3e38])  # the second overflows on the way
def test_an_atom_that_diverges_is_reported_and_its_batch_mates_learn(
    llama, targets, jobs, make_examples, monkeypatch, value
):
    bank = bank_of(llama, targets, make_examples)
    settings = QUICK.model_copy(update={"silence_rows": 1, "max_steps": 12, "pass_probability": 0.99})
    calm = train(llama, targets, jobs, settings=settings, bank=bank)
    step = StackedAdapters.step

    def diverge(self, active, *rates):
        step(self, active, *rates)
        with torch.no_grad():
            self.a[0][5] = value  # slots are given from the last

    monkeypatch.setattr(StackedAdapters, "step", diverge)
    trained = train(llama, targets, jobs, settings=settings, bank=bank)
    lost = trained.pop(jobs[0].identity)
    assert (lost.passed, lost.record.any()) == ((False,) * len(jobs[0].examples), False)
    assert lost.loss == pytest.approx(np.log(1300))
    assert set(trained) == {job.identity for job in jobs[1:]}
    for identity, atom in trained.items():
        assert (atom.passed, atom.steps) == (calm[identity].passed, calm[identity].steps)
        assert np.isfinite(wide(atom.record)).all()


def test_two_answers_to_one_question_fail_by_question(llama, targets, jobs, make_examples):
    one, other = make_examples(2, seed=70, answers=(2, 3))
    job = AtomJob("e" * 64, (one, type(one)(one.prompt, other.answer), one))
    atom = train(llama, targets, [job], settings=QUICK.model_copy(update={"max_steps": 25}))["e" * 64]
    assert atom.steps == 25
    assert atom.passed[0] == atom.passed[2]
    assert not (atom.passed[0] and atom.passed[1])


def test_atoms_leave_when_they_are_done(llama, targets, jobs):
    order = list(train(llama, targets, jobs).values())
    steps = [atom.steps for atom in order]
    assert steps == sorted(steps)
    assert steps[0] < steps[-1]
    sure = train(llama, targets, jobs, settings=QUICK.model_copy(update={"pass_probability": 0.999}))
    assert sum(atom.steps for atom in sure.values()) > 1.2 * sum(steps)


def test_many_more_jobs_than_slots_and_none(llama, targets, make_examples):
    jobs = [
        AtomJob(hashlib.sha256(f"job {n}".encode()).hexdigest(), (make_examples(1, seed=200 + n)[0],))
        for n in range(11)
    ]
    trained = train(llama, targets, iter(jobs), slots=3)
    assert set(trained) == {job.identity for job in jobs}
    assert all(all(atom.passed) for atom in trained.values())
    assert train(llama, targets, []) == {}


def test_hooks_are_gone_after_training(llama, targets, jobs):
    ids = torch.tensor([[4, 5, 6]])
    before = llama(ids).logits
    train(llama, targets, jobs[:2], settings=QUICK.model_copy(update={"max_steps": 3}))
    assert torch.equal(llama(ids).logits, before)


# Neighbours and silence


@pytest.fixture
def pool(llama, targets, jobs):
    """Two finished atoms as distractors."""
    trained = train(llama, targets, jobs[:2])
    return pool_from_records([trained[job.identity].record for job in jobs[:2]], 4, 8.0, targets, "cpu")


def test_distractors_are_mounted_and_change_what_is_learnt(llama, targets, jobs, pool, monkeypatch):
    settings = QUICK.model_copy(update={"mixed_visibility": 1.0, "max_steps": 6})
    without = train(llama, targets, jobs[2:4], 4, settings)
    mounted, weights = StackedAdapters.mounted, []

    def watch(self, mixture):
        weights.append(0.0 if mixture.other_weights is None else float(mixture.other_weights.sum()))
        assert mixture.own_weights.min() >= 0.7
        return mounted(self, mixture)

    monkeypatch.setattr(StackedAdapters, "mounted", watch)
    beside = train(llama, targets, jobs[2:4], 4, settings, pool=pool)
    assert sum(weights) > 0
    for identity, atom in beside.items():
        assert not np.array_equal(atom.record, without[identity].record)


def test_atoms_trained_beside_distractors_stand_beside_them(llama, targets, jobs, pool):
    settings = QUICK.model_copy(update={"mixed_visibility": 0.7, "pass_probability": 0.95})
    trained = train(llama, targets, jobs[2:], settings=settings, pool=pool)
    right = []
    for job in jobs[2:]:
        trainer = Trainer(llama, Trunk(llama, 1, (), 0), targets, ADAPTER, settings, 1, None, pool)
        put(trainer.adapters, trained[job.identity].record, targets)
        rows = trainer.trunk.rows(job.examples, [0] * len(job.examples))
        own = torch.zeros(len(rows), dtype=torch.int64)
        for weight in (0.0, 0.5):
            mixture = Mixture(own, torch.ones(len(rows)), own[:, None], torch.full((len(rows), 1), weight))
            with torch.no_grad(), trainer.adapters.mounted(mixture):
                best = trainer.head.full_logits(late_forward(llama, 1, rows)).argmax(-1)
            right += ((best == rows.targets) | (rows.targets == IGNORED)).all(1).tolist()
    assert np.mean(right) > 0.9


@torch.no_grad()
def put(adapters, record, targets):
    for at, (a, bt) in enumerate(split_record(wide(record), 4, targets)):
        adapters.a[at][0] = torch.from_numpy(a.copy())
        adapters.bt[at][0] = torch.from_numpy(bt.copy())


def test_silence_keeps_the_base_where_it_is_asked_to(llama, targets, jobs, make_examples):
    bank = bank_of(llama, targets, make_examples)
    changes = []
    for rows_per_atom in (0, 4):
        loud = {"silence_weight": 1.0, "silence_at_full_gate": 1.0}
        settings = QUICK.model_copy(update={"silence_rows": rows_per_atom, "pass_probability": 0.99, **loud})
        trained = train(llama, targets, jobs[:3], 3, settings, bank)
        assert all(all(atom.passed) for atom in trained.values())
        total = 0.0
        for atom in trained.values():
            trainer = Trainer(llama, Trunk(llama, 1, (), 0), targets, ADAPTER, settings, 1)
            put(trainer.adapters, atom.record, targets)
            own = torch.zeros(len(bank), dtype=torch.int64)
            with torch.no_grad(), trainer.adapters.mounted(Mixture(own, torch.ones(len(bank)))):
                hidden = late_forward(llama, 1, bank.rows)
            student, teacher = (torch.log_softmax(trainer.head.full_logits(h), -1) for h in (hidden, bank.rows.final))
            total += float((teacher.exp() * (teacher - student)).sum(-1).mean())
        changes.append(total)
    assert changes[1] < 0.5 * changes[0]


def test_the_banks_companions_teach(llama, targets, make_examples, pool):
    trunk = Trunk(llama, 1, (), 0)
    trainer = Trainer(llama, trunk, targets, ADAPTER, QUICK, 1, None, pool)
    general, known = make_examples(3, seed=91), make_examples(4, seed=92)
    bank = build_bank(trunk, trainer.head, general, known, trainer.adapters)
    assert bank.companion == (-1, -1, -1, 0, 0, 1, 1)
    bare = trunk.rows([*general, *known], [0] * 7, with_final=True)
    torch.testing.assert_close(bank.rows.final[:3], bare.final[:3])
    assert float((bank.rows.final[3:] - bare.final[3:]).abs().max()) > 0.01
    # A fresh atom (B is zero) beside the companion leaves everything as it is taught: nothing to punish.
    trainer.bank = bank
    trainer.settings = QUICK.model_copy(update={"silence_rows": 6})
    trainer._admit(iter([AtomJob("a" * 64, (general[0],))]))
    trainer._silence(bank, [0])
    assert float(trainer.adapters.bt[-1].grad.abs().max()) < 1e-4
