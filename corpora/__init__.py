"""Documents to passages: readers, splitting, atom types, sample corpora. Knows neither models nor stores.

for found in read_corpus([folder]):
    if isinstance(found, Document):
        passages = split_document(found)
"""

from atomlora.corpora.documents import Block, Document, PageSpan, SkippedFile
from atomlora.corpora.passages import Passage
from atomlora.corpora.reading import MAX_BYTES, read_corpus
from atomlora.corpora.sample import sample_names, sample_path
from atomlora.corpora.settings import SplitSettings
from atomlora.corpora.split import split_document
from atomlora.corpora.types import ATOM_TYPES, AtomType, classify

__all__ = [
    "ATOM_TYPES",
    "MAX_BYTES",
    "AtomType",
    "Block",
    "Document",
    "PageSpan",
    "Passage",
    "SkippedFile",
    "SplitSettings",
    "classify",
    "read_corpus",
    "sample_names",
    "sample_path",
    "split_document",
]
