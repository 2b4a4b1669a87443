"""One writer, eight readers and a second writer at once: a few seconds of what bench/store.py does for a minute."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench" / "store.py"


def test_readers_keep_their_snapshots_while_versions_land() -> None:
    command = [sys.executable, str(BENCH), "--json", "--sizes", "", "--seconds", "3", "--readers", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    found = json.loads(done.stdout)["readers"]
    assert (found["errors"], found["first_error"], found["verified"]) == (0, "", True)
    assert found["versions"] >= 2
    assert found["snapshots"] >= 8
    assert found["reads"] >= 40 * 8


def test_scale_at_a_small_size() -> None:
    command = [sys.executable, str(BENCH), "--json", "--sizes", "600", "--readers", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    (row,) = json.loads(done.stdout)["scale"]
    assert row["atoms"] == 600
    assert row["weights_bytes_per_atom"] == 1024
