"""Labels from the front matter of Markdown."""

import pytest

from atomlora.corpora import Document, split_document
from atomlora.corpora.readers import reader_for


def one(source: str, text: str) -> Document:
    reader = reader_for(source)
    assert reader is not None
    (document,) = reader(text.encode(), source)
    assert isinstance(document, Document)
    return document


@pytest.mark.parametrize(
    "front",
    ["labels: [harbour, 'opening hours']", "tags: harbour, opening hours", 'Labels:\n  - harbour\n  - "opening hours"'],
)
def test_front_matter_carries_labels(front: str) -> None:
    document = one("a.md", f"---\ntitle: Orla\n{front}\ndate: 2024-03\n---\nThe Orla is old.\n")
    assert document.labels == ("harbour", "opening hours")
    assert (document.title, document.date) == ("Orla", "2024-03")
    assert split_document(document)[0].labels == document.labels


def test_front_matter_without_labels_gives_none() -> None:
    for front in ("labels:", "tags: []", "my labels: [a]", "title: tags: a"):
        assert one("a.md", f"---\n{front}\n---\nThe Orla is old.\n").labels == ()
