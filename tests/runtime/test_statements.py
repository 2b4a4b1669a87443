"""Statements that lose their thread: where decoding stops, and how the atom is asked again."""

import pytest
import torch

from atomlora import AtomLoRA
from atomlora.errors import UsageError
from atomlora.prompts import chat_prompt
from atomlora.runtime.decoding import decode_batch
from atomlora.runtime.steadiness import Steadiness, UntilLost

ASKED = "Which captain steers that ferry?"
WORDING = "Who steers the ferry?"
ALMOST_SURE = 0.999  # no token of a random model reaches it


def scores_of(*chances):
    """(B, 3) logits whose softmax gives token 0 these probabilities, and the other two half of the rest each."""
    first = torch.tensor(chances)
    rest = (1 - first) / 2
    return torch.stack([first, rest, rest], dim=1).log()


def test_a_row_is_lost_at_its_first_improbable_token_and_no_other_row():
    watch = Steadiness(torch.tensor([0.5, 0.5, 0.0]), ends=[2])
    prompt = torch.zeros(3, 4, dtype=torch.long)
    watch(prompt, scores_of(0.9, 0.6, 0.4))
    assert watch.lost.tolist() == [False, False, False]
    watch(torch.zeros(3, 5, dtype=torch.long), scores_of(0.9, 0.4, 0.4))
    assert watch.lost.tolist() == [False, True, False]
    assert UntilLost(watch)(prompt, None).tolist() == [False, True, False]


def test_a_row_may_be_lost_by_all_its_tokens_together():
    watch = Steadiness(torch.tensor([0.6, 0.6, 0.6]), ends=[2], whole=True)
    prompt = torch.zeros(3, 4, dtype=torch.long)
    watch(prompt, scores_of(0.9, 0.7, 0.5))
    assert watch.lost.tolist() == [False, False, True]
    ended = torch.tensor([[0] * 4 + [1], [0] * 4 + [1], [0] * 4 + [1]])
    watch(ended, scores_of(0.9, 0.7, 0.9))  # .81 and .49 so far
    assert watch.lost.tolist() == [False, True, True]
    ended[0, -1] = 2
    watch(ended, scores_of(0.4, 0.9, 0.9))  # what follows an end counts for nothing
    assert watch.lost.tolist() == [False, True, True]


def test_what_follows_an_end_loses_nothing():
    watch = Steadiness(torch.tensor([0.5, 0.5]), ends=[2])
    ended = torch.tensor([[1, 2], [1, 1]])
    watch(ended[:, :1], scores_of(0.9, 0.9))
    watch(ended, scores_of(0.4, 0.4))
    assert watch.lost.tolist() == [False, True]


def test_a_prompt_that_closes_with_an_end_is_watched():
    watch = Steadiness(torch.tensor([0.5]), ends=[2])
    watch(torch.tensor([[1, 2]]), scores_of(0.4))
    assert watch.lost.tolist() == [True]


def test_a_token_that_another_processor_forced_counts_by_the_models_own_distribution():
    def forbid_first(_ids, scores):
        return scores.index_fill(1, torch.tensor([0]), -torch.inf)

    watch = Steadiness(torch.tensor([0.5]), ends=[2], processors=[forbid_first])
    processed = watch(torch.zeros(1, 1, dtype=torch.long), scores_of(0.8))
    assert processed[0, 0] == -torch.inf
    assert watch.lost.tolist() == [True]


@pytest.fixture
def unsteady(world):
    with AtomLoRA.open(world.path, **world.settings | {"steady": ALMOST_SURE}) as model:
        yield model


def alone(model, atom_id, question, steps=8):
    """What the atom, at weight 1 and without others, says to a question."""
    prompt = chat_prompt(model.base.tokenizer, question)
    routed = next(atom for atom in model.route(question, 8).atoms if atom.id == atom_id)
    from atomlora.composer import Selection

    selection = Selection(atoms=(routed.model_copy(update={"weight": 1.0}),))
    with model.composer.mounted([selection], [len(prompt) - 1]) as composition:
        return decode_batch(model.base, [prompt], composition, steps)[0]


def test_a_lost_atom_is_asked_alone_in_its_nearest_training_wording(world, unsteady):
    answer = unsteady.ask(ASKED, max_new_tokens=8)
    assert len(answer.atoms) > 1
    assert [again.id for again in answer.reworded] == [atom.id for atom in answer.atoms]
    first = answer.reworded[0]
    assert (first.id, first.question) == (world.atoms[1].id, WORDING)
    assert answer.text.splitlines()[0] == alone(unsteady, first.id, WORDING)
    assert answer.prompt_tokens == len(chat_prompt(world.base.tokenizer, ASKED))


def test_a_steady_atom_is_not_asked_again(world, opened):
    answer = opened.ask(ASKED, max_new_tokens=8)
    assert answer.reworded == ()
    with AtomLoRA.open(world.path, **world.settings | {"steady": 1e-9}) as model:
        assert model.ask(ASKED, max_new_tokens=8).model_dump(exclude={"latency_ms"}) == answer.model_dump(
            exclude={"latency_ms"}
        )


def test_the_text_of_a_lost_atom_stands_for_it_in_mode_both(unsteady):
    answer = unsteady.ask(ASKED, mode="both", max_new_tokens=8)
    assert len(answer.atoms) > 1
    assert answer.text.splitlines() == [atom.text for atom in answer.atoms]
    assert answer.reworded == ()


def test_a_lost_statement_keeps_the_tone_of_a_behaviour(unsteady, monkeypatch):
    from atomlora.composer import Composer, Selection

    choose = Composer.select

    def beside(composer, route, labels=()):
        first, *others = choose(composer, route, labels).atoms
        return Selection(atoms=(first,), beside=tuple(others))

    monkeypatch.setattr(Composer, "select", beside)
    answer = unsteady.ask(ASKED, mode="both", max_new_tokens=8)
    assert answer.behaviours
    assert [again.id for again in answer.reworded] == [atom.id for atom in answer.atoms]


@pytest.mark.parametrize("mode", ["atoms", "both"])
def test_a_stream_gives_out_nothing_of_what_was_lost(unsteady, mode):
    wanted = unsteady.ask(ASKED, mode, top_k=1, max_new_tokens=8)
    pieces, stream = [], unsteady.stream(ASKED, mode, top_k=1, max_new_tokens=8)
    try:
        while True:
            pieces.append(next(stream))
    except StopIteration as end:
        answer = end.value
    assert "".join(pieces).strip() == wanted.text == answer.text
    assert answer.reworded == wanted.reworded


@pytest.mark.parametrize("mode", ["text", "both", "none"])
def test_other_modes_are_never_asked_again(unsteady, mode):
    assert unsteady.ask(ASKED, mode=mode, max_new_tokens=4).reworded == ()


@pytest.mark.parametrize("steady", [-0.1, 1.0, float("nan")])
def test_a_probability_out_of_range_is_refused(world, steady):
    with pytest.raises(UsageError, match="--steady"):
        AtomLoRA.open(world.path, steady=steady)
