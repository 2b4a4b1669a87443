"""What is recorded of a pair, against whole distributions and dense products; only what changed is measured."""

import numpy as np
import pytest
import torch

from atomlora.atom import split_record
from atomlora.interference import near as near_module
from atomlora.interference.lab import Stack, wordings
from atomlora.interference.measure import measure, probe_examples
from atomlora.interference.near import nearest
from atomlora.training.rows import IGNORED

NEAR = np.array([[1, 3], [0, 2], [4, 1], [4, 0], [2, 3]])


@pytest.fixture
def measured(lab, items, records):
    """measured(**options) -> records of all atoms beside the neighbours of NEAR."""

    def run(atoms=None, weights=None, near=NEAR, probes=1, **options):
        atoms = atoms or [atom for atom, _ in items]
        return measure(lab, atoms, weights or (lambda atom: records[atom.id]), near, probes, **options)

    return run


def token_nll(lab, rows, stack):
    """NLL of each answer token of one row under a stack, full head."""
    real = rows.targets != IGNORED
    return lab.head.exact(lab.hidden(rows, [stack])[real], rows.targets[real])[1]


def test_figures_are_the_full_heads_where_all_tokens_are_candidates(lab, items, measured, monkeypatch):
    monkeypatch.setattr(lab.head, "shared", lab.head.weight.shape[0])
    found = measured()
    lab.mount([atom for atom, _ in items], lambda atom: {a.id: r for a, r in items}[atom.id])
    for number, atom in enumerate(found.atoms):
        rows = lab.rows(probe_examples(lab, lab.atoms[number], 1))
        for pair, other in zip(atom.pairs, NEAR[number], strict=True):
            alone, beside = Stack.at_one(number), Stack.at_one(number, int(other))
            halved = Stack((number, int(other)), (1.0, 0.5))
            outcome = lab.outcome(rows, [0, 0], [alone, beside])
            own, whole, half = (token_nll(lab, rows, stack) for stack in (alone, beside, halved))
            assert pair.peak == pytest.approx(max(0.0, float((whole - own).max())), abs=2e-4)
            assert pair.half_peak == pytest.approx(max(0.0, float((half - own).max())), abs=2e-4)
            assert pair.other == lab.atoms[other].id
            assert pair.delta_nll == pytest.approx(float(outcome.nll[1] - outcome.nll[0]), abs=2e-4)
            real = rows.targets != IGNORED
            kl = lab.divergence(lab.hidden(rows, [beside])[real], lab.hidden(rows, [alone])[real]).mean()
            assert pair.kl == pytest.approx(float(kl), abs=2e-4)


def test_overlap_is_the_share_of_what_the_layers_say(base, lab, items, measured):
    found = measured()
    lab.mount([atom for atom, _ in items], lambda atom: {a.id: r for a, r in items}[atom.id])
    own, other = 3, 4
    rows = lab.rows(probe_examples(lab, lab.atoms[own], 1))
    seen = []
    modules = [base.model.model.layers[t.layer].get_submodule(t.module) for t in lab.targets]
    handles = [m.register_forward_hook(lambda _m, x, y: seen.append((x[0][0], y[0]))) for m in modules]
    lab.hidden(rows, [Stack.at_one(own)])
    for handle in handles:
        handle.remove()
    atom, record = items[other]
    flat = (record.astype(np.uint32) << 16).view(np.float32)
    ratios = []
    for (x, y), (a, bt) in zip(seen, split_record(flat, atom.rank, lab.targets), strict=True):
        delta = atom.scaling * torch.from_numpy(bt.T @ a)
        ratios.append(((x @ delta.T).norm(dim=-1) / y.norm(dim=-1)).mean())
    assert found.pairs[lab.atoms[own].id, atom.id].overlap == pytest.approx(float(np.mean(ratios)), rel=1e-3)


def test_a_silent_neighbour_changes_nothing(items, measured):
    silent = {atom.id: record if number else np.zeros_like(record) for number, (atom, record) in enumerate(items)}
    found = measured(weights=lambda atom: silent[atom.id])
    quiet = [pair for atom in found.atoms for pair in atom.pairs if pair.other == items[0][0].id]
    assert quiet
    assert all(abs(pair.delta_nll) + pair.overlap + abs(pair.kl) + pair.flips < 1e-5 for pair in quiet)


def test_only_pairs_that_changed_are_measured(items, measured, lab, monkeypatch):
    before = measured()
    asked = []
    hidden = lab.hidden

    def watch(rows, stacks):
        asked.extend(tuple(sorted(lab.atoms[place].id for place in stack.atoms)) for stack in stacks)
        return hidden(rows, stacks)

    monkeypatch.setattr(lab, "hidden", watch)
    assert measured(before=before) == before
    assert not asked
    atoms = [atom for atom, _ in items]
    atoms[4] = atoms[4].model_copy(update={"weights_digest": "a" * 64})
    again = measured(atoms=atoms, before=before)
    changed = atoms[4].id
    assert asked
    assert all(changed in pair for pair in asked if len(pair) == 2)
    assert {pair for pair in again.pairs if changed in pair} <= set(again.pairs)
    assert again.measured[changed] == "a" * 64
    asked.clear()
    measured(before=before, probes=2)
    assert asked  # records of another kind do not count


def test_progress_ends_at_all(measured):
    told = []
    measured(on_progress=lambda done, total: told.append((done, total)))
    assert told[0] == (0, 5)
    assert told[-1] == (5, 5)


def test_probes_are_training_questions(lab, items):
    examples = probe_examples(lab, items[0][0], 2)
    assert len(examples) == 2
    text = lab.base.tokenizer.decode(examples[0].answer, skip_special_tokens=True)
    assert text.split()[:3] == wordings(items[0][0])[0][1].split()[:3]


def test_nearest_orders_by_keys_and_never_names_itself(items, embedder):
    from atomlora.runtime.keys import store_keys

    keys = store_keys([atom for atom, _ in items])
    embeddings = embedder.encode([text for _, text in keys])
    positions = np.array([position for position, _ in keys], np.int32)
    found = nearest(embeddings, positions, len(items), 3)
    assert found.shape == (5, 3)
    assert all(atom not in row and len(set(row)) == 3 for atom, row in enumerate(found.tolist()))
    assert found[0, 0] == 1  # the other sentence on the ferry
    assert found[2, 0] == 4  # built of slate
    assert nearest(embeddings, positions, len(items), 99).shape == (5, 4)
    assert nearest(embeddings[:1], positions[:1], 1, 3).shape == (1, 0)


def test_nearest_in_blocks_is_nearest_one_by_one(monkeypatch):
    """Against the formula, atom by atom, where a shortlist and several blocks are needed."""
    generator = np.random.default_rng(0)
    embeddings = generator.standard_normal((360, 16)).astype(np.float32)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    positions = generator.permutation(np.repeat(np.arange(120, dtype=np.int32), 3))
    positions[positions == 7] = 8  # an atom without keys
    means = np.stack([embeddings[positions == at].mean(0) if (positions == at).any() else np.zeros(16, np.float32)
                      for at in range(120)])  # fmt: skip
    expected = []
    for atom in range(120):
        rough = means @ means[atom]
        rough[atom] = -np.inf
        listed = np.argsort(-rough, kind="stable")[: 3 * near_module.SHORTLIST]
        own = embeddings[positions == atom]
        largest = [(own @ embeddings[positions == other].T).max(initial=-1.0) for other in listed]
        expected.append(listed[np.lexsort((listed, -(largest + rough[listed])))][:3])
    monkeypatch.setattr(near_module, "BLOCK", 50)
    found = nearest(embeddings, positions, 120, 3)
    with_keys = np.arange(120) != 7
    assert (found[with_keys] == np.array(expected)[with_keys]).all()
