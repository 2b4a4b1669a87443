"""The sample corpus holds one contradiction, on purpose, and the embedded embedder finds it and no other."""

import pytest

from atomlora.atom import Atom, TrainRecord
from atomlora.compiler.drafts import drafts_from
from atomlora.conflicts.find import find_conflicts
from atomlora.corpora import Document, read_corpus, sample_path, split_document
from atomlora.router import load_embedder

pytestmark = pytest.mark.e2e


def test_the_sample_has_exactly_its_deliberate_contradiction():
    found = read_corpus([sample_path("kestrin") / "documents"])
    passages = [passage for one in found if isinstance(one, Document) for passage in split_document(one)]
    record = TrainRecord(steps=1, loss=0.0, recall=1.0, seconds=0.0)
    atoms = [
        Atom(
            id=f"{number:064x}",
            type=draft.type,
            title=draft.title,
            text=draft.text,
            headings=draft.headings,
            questions=(),
            rank=1,
            alpha=1.0,
            record=record,
            weights_digest="0" * 64,
            provenances=draft.provenances,
        )
        for number, draft in enumerate(drafts_from(passages))
    ]
    assert len(atoms) > 100
    vectors = load_embedder("minilm").encode([atom.text for atom in atoms])
    (conflict,) = find_conflicts(atoms, vectors, lambda ids: dict.fromkeys(ids, 0))
    assert (conflict.older.source, conflict.older.value) == ("policies/luggage-2015.md", "30 kilograms")
    assert (conflict.newer.source, conflict.newer.value) == ("policies/luggage-2023.docx", "23 kilograms")
    assert conflict.decided_by == "the date in its title or file name (2023)"
