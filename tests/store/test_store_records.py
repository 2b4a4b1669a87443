"""int8 records beside bf16 ones, and compaction."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atomlora.atom import Target, record_size, split_record
from atomlora.errors import CorruptStoreError, StoreError
from atomlora.store import Store, compact, pack, weights_digest
from atomlora.store import compaction as compaction_module
from atomlora.store.records import size_bytes, split_quantised, unpack


def bf16(values: np.ndarray) -> np.ndarray:
    """float32 to bfloat16 bits, cut off."""
    return (np.ascontiguousarray(values, np.float32).view(np.uint32) >> 16).astype(np.uint16)


def floats(record: np.ndarray) -> np.ndarray:
    return (record.astype(np.uint32) << 16).view(np.float32)


@given(
    shapes=st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=3),
    rank=st.integers(1, 5),
    scale=st.sampled_from([0.0, 1e-42, 1e-6, 1.0, 1e30]),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60, deadline=None)
def test_int8_is_within_half_a_step_of_its_row(
    shapes: list[tuple[int, int]], rank: int, scale: float, seed: int
) -> None:
    targets = tuple(Target(layer=i, module="m", d_in=a, d_out=b) for i, (a, b) in enumerate(shapes))
    values = np.random.default_rng(seed).normal(size=record_size(rank, targets)) * scale
    record = bf16(values.astype(np.float32))
    packed = pack(record, rank, targets, "int8")
    assert packed.nbytes == size_bytes(rank, targets, "int8") == record.size + 8 * rank * len(targets)
    assert pack(packed, rank, targets, "int8") is packed
    back = unpack(packed, rank, targets)
    assert back.dtype == np.uint16
    pairs = zip(
        split_record(floats(record), rank, targets),
        split_record(floats(back), rank, targets),
        split_quantised(packed, rank, targets),
        strict=True,
    )
    for wanted, found, factors in pairs:
        quantised = ((factors.A, factors.A_scales), (factors.Bt, factors.Bt_scales))
        for want, have, (matrix, scales) in zip(wanted, found, quantised, strict=True):
            assert matrix.dtype == np.int8
            assert matrix.shape == want.shape
            largest = np.abs(want).max(axis=1)
            np.testing.assert_allclose(scales, np.where(scales == 0, 0, largest / 127), rtol=1e-6)
            assert (np.abs(matrix * scales[:, None] - want) <= largest[:, None] / 253 + 1e-38).all()
            # and bfloat16 rounds what was scaled to 8 bits of mantissa
            assert (np.abs(have - want) <= largest[:, None] * (1 / 253 + 2**-8) + 1e-38).all()


def test_what_is_not_finite_is_not_made_int8(make: SimpleNamespace) -> None:
    record = bf16(np.zeros(48, np.float32))
    record[3] = 0x7F80  # infinity
    with pytest.raises(StoreError, match="not finite"):
        pack(record, 2, make.targets, "int8")


def small(make: SimpleNamespace, number: int, kind: str) -> tuple[object, np.ndarray]:
    values = np.random.default_rng(number).normal(size=48).astype(np.float32)
    record = pack(bf16(values), 2, make.targets, kind)
    atom, _ = make.atom(number)
    return atom.model_copy(update={"weights_digest": weights_digest(record)}), record


def test_a_store_holds_both_kinds(tmp_path: Path, make: SimpleNamespace) -> None:
    items = [small(make, n, "int8" if n % 2 else "bf16") for n in range(4)]
    with Store.writer(tmp_path) as writer:
        writer.write_segment(items)
        make.commit(writer, [atom for atom, _ in items])
    with Store.writer(tmp_path) as writer:
        assert len(writer.finished()) == 4
        assert all(writer.weights(atom).tobytes() == record.tobytes() for atom, record in items)
    store = Store.open(tmp_path)
    assert store.verify().ok
    for number, (atom, record) in enumerate(items):
        facts = store.show(atom.id)
        assert (facts["dtype"], facts["size_bytes"]) == (("int8", 80) if number % 2 else ("bf16", 96))
        np.testing.assert_array_equal(store.weights(atom.id), unpack(record, 2, make.targets))


def stage_and_commit(path: Path, make: SimpleNamespace, atom: object, record: np.ndarray) -> None:
    named = atom.model_copy(update={"weights_digest": weights_digest(record)})
    with Store.writer(path) as writer:
        writer.write_segment([(named, record)])
        make.commit(writer, [named])


def test_a_record_of_another_size_is_refused(tmp_path: Path, make: SimpleNamespace) -> None:
    atom, record = small(make, 0, "int8")
    for wrong in (record[:-1].copy(), record.view(np.int8), record.reshape(2, -1)):
        with pytest.raises(StoreError):
            stage_and_commit(tmp_path, make, atom, wrong)
    with pytest.raises(StoreError, match="no version"):
        Store.open(tmp_path)


def test_compaction_keeps_all_but_the_places(store_path: Path, make: SimpleNamespace) -> None:
    before = Store.open(store_path)
    atoms, weights = list(before.atoms()), [before.weights(atom.id).tobytes() for atom in before.atoms()]
    report = compact(store_path)
    assert (report.segments_before, report.segments_after, report.atoms_rewritten) == (4, 1, 6)
    assert report.bytes_before == report.bytes_after == 6 * 96
    after = Store.open(store_path)
    assert after.manifest.parent == before.version
    assert list(after.atoms()) == atoms
    assert [after.weights(atom.id).tobytes() for atom in atoms] == weights
    assert after.manifest.keys == before.manifest.keys
    assert after.verify().ok
    again = compact(store_path)
    assert (again.version, again.atoms_rewritten) == (after.version, 0)
    freed = after.gc(keep=1)
    assert len(freed.versions) == 2
    assert Store.open(store_path).verify().ok
    make.build(store_path, range(1, 9))  # and the next compile finds the atoms where they lie now
    assert Store.open(store_path).verify().ok


def test_compaction_needs_no_more_than_the_current_version(store_path: Path, make: SimpleNamespace) -> None:
    before = make.build(store_path, [1, 2, 3])
    oldest = Store.open(store_path).versions[-1]
    (store_path / "manifests" / f"{oldest}.json").unlink()
    report = compact(store_path)
    assert (report.segments_before, report.segments_after) == (len(before.segments), 1)


def test_compaction_splits_by_size_and_changes_the_storage(
    tmp_path: Path, make: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = [small(make, n, "bf16") for n in range(10)]
    with Store.writer(tmp_path) as writer:
        for item in items:
            writer.write_segment([item])
        make.commit(writer, [atom for atom, _ in items])
    monkeypatch.setattr(compaction_module, "SEGMENT_BYTES", 5 * 80)
    report = compact(tmp_path, "int8")
    assert (report.segments_before, report.segments_after) == (10, 2)
    assert (report.bytes_before, report.bytes_after) == (960, 800)
    store = Store.open(tmp_path)
    assert store.manifest.settings["storage"] == "int8"
    for atom, record in items:
        packed = pack(record, 2, make.targets, "int8")
        np.testing.assert_array_equal(store.weights(atom.id), unpack(packed, 2, make.targets))
    assert store.verify().ok


def test_compaction_stops_at_damage(store_path: Path) -> None:
    version = Store.open(store_path).version
    segment = Store.open(store_path).manifest.segments[0].sha256
    file = store_path / "objects" / segment[:2] / segment
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises((CorruptStoreError, StoreError)):
        compact(store_path)
    assert Store.open(store_path).version == version
