"""Pairs of statements that contradict each other, and pairs that are merely alike."""

import json
from pathlib import Path

import pytest

from atomlora.atom import Atom, Provenance, TrainRecord
from atomlora.conflicts.compare import Statement
from atomlora.questions.types import Question


@pytest.fixture
def pairs_of():
    """pairs_of(name) -> [(statement, statement, whether they contradict)] of a file in this folder."""
    return _pairs


def _pairs(name):
    lines = (Path(__file__).parent / f"pairs_{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [
        (
            Statement(one["a"], one["title_a"], (), ("a",)),
            Statement(one["b"], one["title_b"], (), ("b",)),
            one["contradict"],
        )
        for one in map(json.loads, lines)
    ]


@pytest.fixture
def make_atom():
    """make(text, source, date, origin, title) -> an untrained atom with one question."""

    def make(text, source, date=None, origin=None, title="Policy", question=None):
        place = Provenance(source=source, start=0, end=len(text), source_sha256="0" * 64, date=date, date_origin=origin)
        asked = (Question(text=question[0], answer=question[1], kind="written"),) if question else ()
        return Atom(
            id=f"{abs(hash((text, source))):064x}"[-64:],
            type="statement",
            title=title,
            text=text,
            questions=asked,
            rank=1,
            alpha=1.0,
            record=TrainRecord(steps=1, loss=0.0, recall=1.0, seconds=0.0),
            weights_digest="1" * 64,
            provenances=(place,),
        )

    return make
