"""Records, catalogues and framing over generated values."""

from __future__ import annotations

import contextlib
import hashlib
import json
import struct
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from atomlora.atom import Atom, Provenance, TrainRecord
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.questions.types import Question
from atomlora.store import tensors, weights_digest
from atomlora.store.catalogue import Catalogue, Entry, write_catalogue
from atomlora.store.keys import read_keys, write_keys
from atomlora.store.manifest import Manifest, parse_manifest
from atomlora.store.objects import ObjectFolder
from atomlora.store.segments import read_record, read_segment, write_segment

relaxed = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(max_size=40)
records = st.binary(min_size=2, max_size=200).map(lambda data: np.frombuffer(data[: len(data) // 2 * 2], "<u2"))


@st.composite
def atoms_with_records(draw: st.DrawFn) -> list[tuple[Atom, np.ndarray]]:
    items = []
    for number in draw(st.sets(st.integers(0, 10**6), min_size=1, max_size=5)):
        record = draw(records)
        questions = draw(st.lists(st.builds(Question, text=texts, answer=texts, kind=st.just("user")), max_size=3))
        provenance = st.builds(
            Provenance,
            source=texts,
            start=st.integers(0),
            end=st.integers(0),
            source_sha256=texts,
            page=st.none(),
        )
        atom = Atom(
            id=hashlib.sha256(b"%d" % number).hexdigest(),
            type=draw(texts),
            title=draw(texts),
            text=draw(texts),
            headings=tuple(draw(st.lists(texts, max_size=2))),
            questions=tuple(questions),
            rank=draw(st.integers(1, 64)),
            alpha=draw(finite),
            record=TrainRecord(steps=draw(st.integers(0)), loss=draw(finite), recall=draw(finite), seconds=1.5),
            weights_digest=weights_digest(record),
            provenances=tuple(draw(st.lists(provenance, max_size=2))),
            labels=tuple(draw(st.lists(texts, max_size=2))),
        )
        items.append((atom, record))
    return items


@given(items=atoms_with_records())
@relaxed
def test_segments_and_catalogues_read_back(items: list[tuple[Atom, np.ndarray]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        objects = ObjectFolder(Path(folder) / "objects")
        digest, placed = write_segment(objects, items)
        assert read_segment(objects, digest) == placed
        view = objects.map_unverified(digest)
        for (atom, record), (_, place) in zip(items, placed, strict=True):
            np.testing.assert_array_equal(read_record(objects, view, place, atom.id, atom.weights_digest), record)
        entries = [Entry(atom=a, segment=p.segment, offset=p.offset, size=p.size) for a, p in placed]
        catalogue = write_catalogue(objects, entries)
        read = Catalogue(objects, catalogue)
        assert list(read) == entries
        assert [read.parse(read.line(at, len(line))) for at, line in read.lines()] == entries
        assert read_segment(objects, catalogue) is None
        assert sorted({digest, catalogue}) == list(objects.digests())


@given(st.integers(0, 20), st.integers(1, 9), st.integers(1, 50), st.integers(0, 2**32 - 1))
@relaxed
def test_keys_read_back(rows: int, dimension: int, atoms: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    embeddings = generator.normal(size=(rows, dimension)).astype(np.float32)
    positions = generator.integers(0, atoms, rows, dtype=np.int32)
    with tempfile.TemporaryDirectory() as folder:
        objects = ObjectFolder(Path(folder) / "objects")
        digest = write_keys(objects, embeddings, positions, atoms)
        read_embeddings, read_positions = read_keys(objects, digest, atoms)
        np.testing.assert_array_equal(read_embeddings, embeddings)
        np.testing.assert_array_equal(read_positions, positions)
        assert read_segment(objects, digest) is None


json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-4, 300) | finite | st.sampled_from(["U8", "BF16", "F32", "x"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "a"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    header=json_values | st.binary(max_size=60),
    length=st.none() | st.integers(0, 2**64 - 1),
    tail=st.binary(),
)
@relaxed
def test_no_header_does_more_than_raise(header: Any, length: int | None, tail: bytes) -> None:
    data = header if isinstance(header, bytes) else json.dumps(header).encode()
    view = memoryview(struct.pack("<Q", len(data) if length is None else length) + data + tail)
    with contextlib.suppress(CorruptStoreError):
        found, _ = tensors.parse(view, Path("file"))
        assert sum(tensor.stop - tensor.start for tensor in found.values()) == len(view) - 8 - len(data)


def test_a_huge_header_length_is_refused_unread(tmp_path: Path) -> None:
    file = tmp_path / "file"
    for length in (tensors.HEADER_LIMIT + 1, 2**63, 3):
        view = memoryview(struct.pack("<Q", length) + b"{}")
        with pytest.raises(CorruptStoreError, match=f"header of {length} bytes"):
            tensors.parse(view, file)


@given(
    st.dictionaries(st.sampled_from([*Manifest.model_fields, "extra"]), json_values, max_size=20),
    st.sampled_from([1, 2, 3, 0, -1, 2**70, True, 1.5, "1", None]),
)
@relaxed
def test_no_manifest_does_more_than_raise(plain: dict[str, Any], version: Any) -> None:
    data = json.dumps({**plain, "format_version": version}).encode()
    for bytes_ in (data, data[: len(data) // 2], b"[" * 100_000):
        with contextlib.suppress(StoreError):
            assert parse_manifest(bytes_, Path("file")).format_version in (1, 2)
