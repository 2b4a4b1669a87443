"""`AtomLoRA`: asking in every mode, alone, in batches, in streams and in threads."""

import copy
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from atomlora import AtomLoRA
from atomlora.answers import Answer, Conflict
from atomlora.atom import split_record
from atomlora.composer import Composer
from atomlora.errors import UsageError
from atomlora.prompts import chat_prompt
from atomlora.router import Route, RoutedAtom, RouterSettings
from atomlora.store import Store
from atomlora.turns import joined

QUESTIONS = (
    "When does the ferry leave?",
    "Who steers the ferry?",
    "What was the tower built of?",
    "Which fruit grows in the garden?",
    "Who steers the ferry and when does the ferry leave to the garden?",
)
ALWAYS_SILENT = {"threshold": 2.0}  # above every confidence


def route_of(world, weights):
    """A route with the given weights by atom number."""
    atoms = tuple(RoutedAtom(id=world.atoms[n].id, weight=w, score=1.0) for n, w in weights.items())
    return Route(question="?", atoms=atoms, abstained=False, confidence=1.0)


def as_float(record):
    return torch.from_numpy((record.astype(np.uint32) << 16).view(np.float32).copy())


def merged(world, weights):
    """The base with W + sum w s B A, straight from the records."""
    dense = copy.deepcopy(world.base.model)
    targets = Store.open(world.path).manifest.targets
    for number, weight in weights.items():
        atom = world.atoms[number]
        flat = as_float(world.records[number]).numpy()
        for target, (a, bt) in zip(targets, split_record(flat, atom.rank, targets), strict=True):
            module = dense.model.layers[target.layer].mlp.get_submodule(target.module)
            module.weight += weight * atom.scaling * torch.from_numpy(bt).T @ torch.from_numpy(a)
    return dense


def bare_text(world, prompt, steps=8):
    ids = torch.tensor([prompt])
    out = world.base.model.generate(ids, max_new_tokens=steps, do_sample=False, eos_token_id=[0, 2])
    return world.base.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True).strip()


def test_ask_gives_answer_with_provenance(world, opened):
    answer = opened.ask(QUESTIONS[2], max_new_tokens=8)
    assert isinstance(answer, Answer)
    assert answer.atoms[0].id == world.atoms[2].id
    assert answer.atoms[0].text == "The tower was built of slate."
    assert (answer.atoms[0].source, answer.atoms[0].start, answer.atoms[0].end) == ("tower.md", 2, 31)
    assert answer.prompt_tokens == len(chat_prompt(world.base.tokenizer, QUESTIONS[2]))
    assert answer.latency_ms > 0
    assert not answer.abstained
    fields = json.loads(json.dumps(answer.model_dump(mode="json")))
    assert set(fields) == {
        *("question", "text", "statement", "reader", "abstained", "confidence", "mode", "atoms", "behaviours"),
        *("dropped", "conflicts", "reworded", "latency_ms", "prompt_tokens", "unanswered", "unanswerable"),
    }
    assert set(fields["atoms"][0]) == {"id", "weight", "score", "source", "start", "end", "text"}


def decoded(world, weights, steps=6):
    """Greedy steps in answer scope, where only the prompt's last token is adapted: cache from the base, rest
    merged."""
    dense = merged(world, weights)
    ids = torch.tensor([chat_prompt(world.base.tokenizer, QUESTIONS[2])])
    last = ids.shape[1] - 1
    tokens = []
    for _ in range(steps):
        cache = world.base.model(ids[:, :last], use_cache=True).past_key_values
        tokens.append(int(dense(ids[:, last:], past_key_values=cache).logits[0, -1].argmax()))
        if tokens[-1] in (0, 2):
            break
        ids = torch.cat([ids, torch.tensor([tokens[-1:]])], dim=1)
    return world.base.tokenizer.decode(tokens, skip_special_tokens=True).strip()


def test_ask_decodes_what_dense_merging_decodes(world, opened):
    """Each turn: its leader at weight 1, the others at their gates."""
    answer = opened.ask(QUESTIONS[2], max_new_tokens=6)
    gates = {next(n for n, a in enumerate(world.atoms) if a.id == r.id): r.weight for r in answer.atoms}
    assert len(gates) > 1
    said = [decoded(world, gates | {leader: 1.0}) for leader in gates]
    assert answer.text == joined(said)
    assert answer.text != opened.ask(QUESTIONS[2], mode="none", max_new_tokens=6).text


def test_one_routed_atom_has_one_turn(world, opened):
    answer = opened.ask(QUESTIONS[2], top_k=1, max_new_tokens=6)
    (atom,) = answer.atoms
    number = next(n for n, a in enumerate(world.atoms) if a.id == atom.id)
    assert answer.text == decoded(world, {number: 1.0})


@pytest.mark.parametrize("mode", ["atoms", "text", "both", "auto", "none"])
def test_a_batch_answers_as_single_questions(opened, mode):
    together = opened.ask_batch(QUESTIONS, mode=mode, max_new_tokens=8)
    alone = [opened.ask(question, mode=mode, max_new_tokens=8) for question in QUESTIONS]
    for one, other in zip(together, alone, strict=True):
        assert one.model_dump(exclude={"latency_ms"}) == other.model_dump(exclude={"latency_ms"})
    assert len({answer.text for answer in together}) > 1


def test_text_mode_is_the_bare_base_with_the_texts(world, opened):
    answer = opened.ask(QUESTIONS[3], mode="text", top_k=2, max_new_tokens=8)
    context = "\n".join(atom.text for atom in answer.atoms)
    assert len(answer.atoms) == 2
    assert context.startswith("Plums grow")
    prompt = chat_prompt(world.base.tokenizer, QUESTIONS[3], context=context)
    assert answer.text == bare_text(world, prompt)
    assert answer.prompt_tokens == len(prompt)


def test_both_states_without_the_texts_in_the_prompt(opened):
    for question in QUESTIONS:
        stated = opened.ask(question, mode="atoms", top_k=2, max_new_tokens=8)
        both = opened.ask(question, mode="both", top_k=2, max_new_tokens=8)
        assert both.model_dump(exclude={"latency_ms", "mode"}) == stated.model_dump(exclude={"latency_ms", "mode"})


def test_mode_none_neither_routes_nor_mounts(world, opened):
    answer = opened.ask(QUESTIONS[0], mode="none", max_new_tokens=8)
    assert answer.text == bare_text(world, chat_prompt(world.base.tokenizer, QUESTIONS[0]))
    assert answer.atoms == ()
    assert not answer.abstained
    assert world.embedder.calls == 1  # that of the store's keys


def test_abstaining_asks_the_bare_base(world, opened):
    opened.router.calibration = opened.router.calibration.model_copy(update=ALWAYS_SILENT)
    opened.router.settings = RouterSettings(abstain=True)
    for mode in ("atoms", "text", "both"):
        answer = opened.ask(QUESTIONS[0], mode=mode, max_new_tokens=8)
        assert answer.abstained
        assert answer.atoms == ()
        assert answer.text == bare_text(world, chat_prompt(world.base.tokenizer, QUESTIONS[0]))


@pytest.mark.parametrize("mode", ["atoms", "both", "none"])
def test_stream_yields_the_same_text_and_returns_the_answer(opened, mode):
    wanted = opened.ask(QUESTIONS[1], mode=mode, max_new_tokens=10)
    pieces, stream = [], opened.stream(QUESTIONS[1], mode=mode, max_new_tokens=10)
    try:
        while True:
            pieces.append(next(stream))
    except StopIteration as end:
        answer = end.value
    assert len(pieces) > 1
    assert "".join(pieces).strip() == wanted.text
    assert answer.model_dump(exclude={"latency_ms"}) == wanted.model_dump(exclude={"latency_ms"})


def test_a_closed_stream_stops_decoding_and_unpins(opened):
    before = threading.active_count()
    stream = opened.stream(QUESTIONS[1], max_new_tokens=90)
    next(stream)
    assert opened.composer.pool.stats.pinned > 0
    stream.close()
    assert opened.composer.pool.stats.pinned == 0
    assert threading.active_count() == before


def test_an_error_while_streaming_reaches_the_caller(opened):
    def fail(*_arguments):
        raise RuntimeError("layer on fire")

    handle = opened.base.model.model.layers[2].register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="layer on fire"):
        list(opened.stream(QUESTIONS[0]))
    handle.remove()
    assert opened.composer.pool.stats.pinned == 0
    assert "".join(opened.stream(QUESTIONS[0], max_new_tokens=4))


def test_compose_wraps_the_model(world, opened):
    first, second = route_of(world, {0: 1.0, 1: 0.5}), route_of(world, {2: 0.8})
    tokenizer = world.base.tokenizer
    ids = torch.tensor([chat_prompt(tokenizer, QUESTIONS[0])])
    bare = world.base.model(ids).logits
    with opened.compose(first) as model:
        assert model.config is world.base.model.config
        logits = model(ids).logits
        assert torch.equal(logits[:, :-1], bare[:, :-1])
        assert not torch.equal(logits[:, -1], bare[:, -1])
        everywhere = model(ids, answer_start=[0]).logits
        torch.testing.assert_close(everywhere, merged(world, {0: 1.0, 1: 0.5})(ids).logits, rtol=1e-4, atol=1e-4)
        generated = model.generate(ids, max_new_tokens=5, do_sample=False)
        step = model(ids, use_cache=True)
        tokens = [int(step.logits[0, -1].argmax())]
        while len(tokens) < 5 and tokens[-1] != 0:
            step = model(torch.tensor([tokens[-1:]]), past_key_values=step.past_key_values, use_cache=True)
            tokens.append(int(step.logits[0, -1].argmax()))
        assert generated[0, ids.shape[1] :].tolist() == tokens
    with opened.compose([first, second]) as model:
        padded = tokenizer.pad(
            {"input_ids": [chat_prompt(tokenizer, q) for q in QUESTIONS[1:3]]},
            padding=True,
            return_tensors="pt",
            padding_side="right",
        )
        width = padded["attention_mask"].sum(1)
        found = model(**padded).logits
        assert width[0] != width[1]
        with pytest.raises(UsageError, match="2 routes for 3 prompts"):
            model(ids.repeat(3, 1))
    for row, route in enumerate((first, second)):
        with opened.compose(route) as model:
            wanted = model(padded["input_ids"][row : row + 1, : width[row]]).logits[0]
            torch.testing.assert_close(found[row, : width[row]], wanted, rtol=1e-4, atol=1e-4)
    assert torch.equal(world.base.model(ids).logits, bare)
    assert opened.composer.pool.stats.pinned == 0


def test_compose_without_atoms_is_the_bare_base(world, opened):
    ids = torch.tensor([chat_prompt(world.base.tokenizer, QUESTIONS[0])])
    empty = Route(question="?", atoms=(), abstained=True, confidence=0.0)
    with opened.compose(empty) as model:
        assert torch.equal(model(ids).logits, world.base.model(ids).logits)


def test_threads_ask_as_one(opened):
    wanted = [opened.ask(question, max_new_tokens=6).text for question in QUESTIONS]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda q: opened.ask(q, max_new_tokens=6).text, QUESTIONS * 3))
    assert found == wanted * 3
    assert len(set(wanted)) > 1


def test_a_small_pool_evicts_and_splits_batches(world):
    with AtomLoRA.open(world.path, **world.settings) as roomy:
        wanted = [answer.text for answer in roomy.ask_batch(QUESTIONS, top_k=2, max_new_tokens=6)]
    with AtomLoRA.open(world.path, capacity=2, **world.settings) as tight:
        found = [answer.text for answer in tight.ask_batch(QUESTIONS, top_k=2, max_new_tokens=6)]
        assert tight.composer.pool.stats.evictions > 0
        with pytest.raises(UsageError, match="capacity"):
            tight.ask(QUESTIONS[0], top_k=3)
        assert tight.composer.pool.stats.pinned == 0
    assert found == wanted


def test_requests_wait_for_slots_and_give_up_in_time(world, opened):
    atoms = opened.atoms
    with AtomLoRA.open(world.path, base=world.base) as other:
        composer = Composer(other.store, world.base.model, atoms, capacity=1, patience_s=0.2)
        one, two = (composer.select(route_of(world, {n: 1.0})) for n in (0, 1))
        with composer.mounted([one], [0]), pytest.raises(UsageError, match="no free slot"):
            composer.mounted([two], [0]).__enter__()
        composer.patience_s = 20
        entered = threading.Event()

        def wait_and_mount():
            with composer.mounted([two], [0]):
                entered.set()

        thread = threading.Thread(target=wait_and_mount)
        with composer.mounted([one], [0]):
            thread.start()
            assert not entered.wait(0.1)
        thread.join(10)
        assert entered.is_set()
        composer.close()


def test_selection_drops_what_must_not_act(world, opened):
    silent = world.atoms[1].model_copy(update={"record": world.atoms[1].record.model_copy(update={"recall": 0.0})})
    opened.composer.atoms[silent.id] = silent
    route = route_of(world, {0: 0.0, 1: 1.0, 2: 0.6})
    strange = RoutedAtom(id="e" * 64, weight=1.0, score=1.0)
    selection = opened.composer.select(route.model_copy(update={"atoms": (*route.atoms, strange)}))
    assert [atom.id for atom in selection.atoms] == [world.atoms[2].id]
    reasons = {dropped.id: dropped.reason for dropped in selection.dropped}
    assert "weight is 0" in reasons[world.atoms[0].id]
    assert "none of its questions" in reasons[silent.id]
    assert "not in this version" in reasons[strange.id]


def test_policies_narrow_and_report(world):
    def keep_the_first(selection):
        best, *others = selection.atoms
        return selection.without({atom.id: "second best" for atom in others}).model_copy(
            update={"conflicts": tuple(Conflict(a=best.id, b=o.id, reason="crowd") for o in others)}
        )

    with AtomLoRA.open(world.path, policies=[keep_the_first], **world.settings) as model:
        answer = model.ask(QUESTIONS[0], top_k=3, max_new_tokens=6)
    with AtomLoRA.open(world.path, **world.settings) as model:
        alone = model.ask(QUESTIONS[0], top_k=1, max_new_tokens=6)
    assert len(answer.atoms) == 1
    assert [dropped.reason for dropped in answer.dropped] == ["second best"] * 2
    assert [conflict.a for conflict in answer.conflicts] == [answer.atoms[0].id] * 2
    assert answer.text == alone.text


def test_importing_loads_nothing_heavy():
    code = (
        "import sys, atomlora, atomlora.answers, atomlora.model\n"
        "heavy = {'torch', 'transformers', 'numba', 'faiss', 'sentence_transformers'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
