"""What `AtomLoRA` refuses, and that a closed one leaves the base as it was."""

import copy

import pytest
import torch

from atomlora import AtomLoRA
from atomlora.answers import REFUSAL
from atomlora.bases import Base, fingerprint
from atomlora.errors import BaseModelError, CorruptStoreError, StoreError, UsageError
from atomlora.router import RouterSettings
from atomlora.runtime.composition import composition


def question_of(world, number):
    return world.atoms[number].questions[0].text


def test_another_base_is_refused_by_name(world):
    model = copy.deepcopy(world.base.model)
    model.lm_head.weight[3, 4] += 0.5
    stranger = Base("stranger", fingerprint(model, world.base.tokenizer), model, world.base.tokenizer)
    with pytest.raises(BaseModelError, match=r"'tiny'.*'stranger'"):
        AtomLoRA.open(world.path, base=stranger)


def test_another_embedder_is_refused_by_name(world):
    stranger = copy.copy(world.embedder)
    stranger.name, stranger.fingerprint = "stranger", "0" * 64
    with (
        AtomLoRA.open(world.path, base=world.base, embedder=stranger) as model,
        pytest.raises(BaseModelError, match=r"'words'.*'stranger'"),
    ):
        model.route("Who?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"question": " \n"}, "empty"),
        ({"question": "\ud83d"}, "half a character"),
        ({"top_k": 0}, "--top-k"),
        ({"mode": "magic"}, "--mode magic"),
        ({"max_new_tokens": 0}, "--max-new-tokens"),
        ({"max_new_tokens": 128}, "128 new ones exceed"),
    ],
)
def test_what_cannot_be_asked(world, opened, arguments, message):
    arguments = {"question": question_of(world, 0)} | arguments
    with pytest.raises(UsageError, match=message):
        opened.ask(**arguments)
    with pytest.raises(UsageError, match=message):
        opened.stream(**arguments)
    assert opened.ask_batch([]) == []


@pytest.mark.parametrize("mode", ["atoms", "text", "both"])
def test_what_is_off_topic_is_refused_where_the_user_says_so(world, mode):
    question = question_of(world, 0)
    with AtomLoRA.open(world.path, **world.settings | {"off_topic": "refuse"}) as model:
        model.router.calibration = model.router.calibration.model_copy(update={"threshold": 2.0})
        assert model.ask(question, mode=mode, max_new_tokens=4).text != REFUSAL
        model.router.settings = RouterSettings(abstain=True)
        answer = model.ask(question, mode=mode)
        assert (answer.text, answer.abstained, answer.prompt_tokens) == (REFUSAL, True, 0)
        assert list(model.stream(question, mode=mode)) == [REFUSAL]
        assert model.ask(question, mode="none", max_new_tokens=4).text != REFUSAL


def test_an_unknown_way_with_off_topic_questions_is_refused(world):
    with pytest.raises(UsageError, match="--off-topic shrug"):
        AtomLoRA.open(world.path, off_topic="shrug")


def test_changed_weights_are_not_mounted(world):
    segment = next(
        path for path in (world.path / "objects").rglob("*") if path.is_file() and path.stat().st_size > 9000
    )
    data = bytearray(segment.read_bytes())
    data[-20] ^= 1
    segment.chmod(0o644)
    segment.write_bytes(data)
    with (
        AtomLoRA.open(world.path, **world.settings) as model,
        pytest.raises(CorruptStoreError),
    ):
        model.ask(question_of(world, 3))


def test_no_store(tmp_path):
    with pytest.raises(StoreError, match="nowhere"):
        AtomLoRA.open(tmp_path / "nowhere")


def test_closing_leaves_the_base_bare(world):
    with AtomLoRA.open(world.path, **world.settings) as model:
        model.ask(question_of(world, 0), max_new_tokens=2)
    assert "forward" not in vars(world.base.model)
    ids = torch.tensor([[5, 6]])
    with pytest.raises(ValueError, match="composition"):
        world.base.model.generate(ids, composition=composition([[0]], [[1.0]], [1]), max_new_tokens=1)
