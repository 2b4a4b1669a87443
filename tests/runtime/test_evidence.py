"""What a base says of whether a text tells about a question."""

import json
from pathlib import Path

import pytest
import torch

import atomlora
from atomlora.opening import looks_again
from atomlora.runtime.evidence import evidence

QUESTIONS = ["w1 w2 w3", "w5", "w7 w9 w7 w2 w1 w0"]
TEXTS = [["w1 w2 w3 w4"], ["w9", "w5 w6 w8 w10 w11"], ["w3 w3 w3", "w0 w1"]]


def log_probability(base, prompt, question):
    """By the whole row's logits in float64, token after token."""
    ids = [*prompt, *question]
    chances = torch.log_softmax(base.model.double()(torch.tensor([ids])).logits[0].double(), -1)
    return sum(float(chances[len(prompt) + at - 1, token]) for at, token in enumerate(question))


def prompts(base, question, text):
    def encode(part):
        return base.tokenizer.encode(part, add_special_tokens=False)

    bos = [] if base.tokenizer.bos_token_id is None else [base.tokenizer.bos_token_id]
    asked, begin = encode(f" {question}\n"), encode("Question:")
    return bos + begin, bos + encode(f"Text: {text}\n") + begin, asked


def test_it_is_the_gain_in_log_probability_by_the_most_telling_text(world) -> None:
    base = world.base
    found = evidence(base, QUESTIONS, TEXTS)
    for question, texts, nats in zip(QUESTIONS, TEXTS, found, strict=True):
        gains = []
        for text in texts:
            alone, behind, asked = prompts(base, question, text)
            gains.append(log_probability(base, behind, asked) - log_probability(base, alone, asked))
        assert nats == pytest.approx(max(gains), abs=1e-4)


def test_batch_mates_and_mounted_atoms_change_nothing(opened, world) -> None:
    many = evidence(world.base, QUESTIONS * 5, TEXTS * 5)
    assert many == pytest.approx(evidence(world.base, QUESTIONS, TEXTS) * 5, abs=1e-4)
    route = opened.route("Who wears the red scarf?")
    with opened.compose(route):
        assert evidence(world.base, QUESTIONS[:1], TEXTS[:1]) == pytest.approx(many[:1], abs=1e-4)


def test_a_text_too_long_for_the_base_loses_its_end(world) -> None:
    room = world.base.model.config.max_position_embeddings
    long = "w1 " * (2 * room)
    cut = "w1 " * (4 * room)
    assert evidence(world.base, ["w2"], [[long]]) == evidence(world.base, ["w2"], [[cut]])


def test_no_question_is_no_work(world) -> None:
    assert evidence(world.base, [], []) == []


def test_only_the_base_that_it_was_fitted_on_looks_again(opened) -> None:
    assert not looks_again(opened.store, True)
    shipped = Path(atomlora.__file__).parent / "reader" / "readers" / "smollm2-135m-instruct" / "reader.json"
    record = opened.store.manifest.base
    record = record.model_copy(update={"fingerprint": json.loads(shipped.read_text())["base"]["fingerprint"]})

    class Embedded:
        manifest = opened.store.manifest.model_copy(update={"base": record})

    assert looks_again(Embedded(), True)
    assert not looks_again(Embedded(), False)
