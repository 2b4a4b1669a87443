"""The file that caches of arrays lie in."""

from pathlib import Path

import numpy as np
import pytest

from atomlora.router.cache import read_cache, write_cache
from atomlora.store.files import TEMPORARY


def test_cached_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(7, dtype=np.int32),
        "b": np.zeros((0, 3), np.float16),
        "c": np.arange(6, dtype=np.float32).reshape(2, 3),
    }
    write_cache(tmp_path / "x", "stamp", arrays)
    found = read_cache(tmp_path / "x", "stamp")
    assert found.keys() == arrays.keys()
    for name, array in arrays.items():
        assert found[name].dtype == array.dtype
        np.testing.assert_array_equal(found[name], array)
    assert read_cache(tmp_path / "x", "other") is None
    with pytest.raises(ValueError, match="complex128"):
        write_cache(tmp_path / "x", "stamp", {"z": np.zeros(1, np.complex128)})


def test_an_interrupted_write_leaves_nothing_and_a_killed_one_what_gc_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = []

    def interrupted(_source: str, _target: Path) -> None:
        names.extend(file.name for file in tmp_path.iterdir())
        raise KeyboardInterrupt

    monkeypatch.setattr("atomlora.router.cache.os.replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_cache(tmp_path / "x", "stamp", {"a": np.zeros(3, np.float32)})
    assert list(tmp_path.iterdir()) == []
    (name,) = names
    assert name.startswith(TEMPORARY)  # all that is left of a process killed here
