"""Keys: the embeddings by which atoms are found, as a safetensors file with `embeddings` F32 (n, d) and
`positions` I32 (n,), the atom's position in the catalogue."""

from __future__ import annotations

import numpy as np

from atomlora.errors import StoreError
from atomlora.store import tensors
from atomlora.store.files import DamagedFileError
from atomlora.store.objects import ObjectFolder

_METADATA = {"format": "atomlora.keys", "format_version": "1"}


def write_keys(objects: ObjectFolder, embeddings: np.ndarray, positions: np.ndarray, atoms: int) -> str:
    """Write embeddings float32 (n, d) and positions int32 (n,), each in [0, `atoms`), durably; returns the
    digest."""
    if embeddings.dtype != np.float32 or embeddings.ndim != 2 or not np.isfinite(embeddings).all():
        raise StoreError(f"keys: embeddings must be finite float32 (n, d), not {embeddings.dtype} {embeddings.shape}")
    if positions.dtype != np.int32 or positions.shape != embeddings.shape[:1]:
        raise StoreError(f"keys: positions must be int32 ({len(embeddings)},), not {positions.dtype} {positions.shape}")
    if len(positions) and not (positions.min() >= 0 and positions.max() < atoms):
        raise StoreError(f"keys: positions must lie in [0, {atoms}), the atoms' places in the catalogue")
    head, _ = tensors.frame([("embeddings", "F32", embeddings.shape), ("positions", "I32", positions.shape)], _METADATA)
    data = [np.ascontiguousarray(embeddings, dtype="<f4"), np.ascontiguousarray(positions, dtype="<i4")]
    return objects.write([head, *(array.tobytes() for array in data)])[0]


def read_keys(objects: ObjectFolder, digest: str, atoms: int) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings float32 (n, d) and positions int32 (n,) as read-only views of the mapped file, hashed in
    whole."""
    view, path = objects.map(digest), objects.path(digest)
    found, _ = tensors.parse(view, path)
    if {name: tensor.dtype for name, tensor in found.items()} != {"embeddings": "F32", "positions": "I32"}:
        raise DamagedFileError(path, "holds no keys")
    rows, places = found["embeddings"], found["positions"]
    if len(rows.shape) != 2 or places.shape != rows.shape[:1]:
        raise DamagedFileError(path, "embeddings and positions do not go together")
    embeddings = np.frombuffer(view[rows.start : rows.stop], dtype="<f4").reshape(rows.shape)
    positions = np.frombuffer(view[places.start : places.stop], dtype="<i4")
    if len(positions) and not (positions.min() >= 0 and positions.max() < atoms):
        raise DamagedFileError(path, f"positions point outside of the {atoms} atoms")
    return embeddings, positions
