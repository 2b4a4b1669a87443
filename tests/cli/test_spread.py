"""Some of many, evenly spread."""

import pytest

from atomlora.spread import evenly


@pytest.mark.parametrize(
    ("many", "count", "chosen"),
    [
        (6, 3, [0, 2, 4]),
        (7, 3, [0, 2, 4]),
        (5, 4, [0, 1, 2, 3]),
        (2, 5, [0, 1]),
        (3, 3, [0, 1, 2]),
        (0, 3, []),
        (4, 0, []),
    ],
)
def test_evenly(many, count, chosen):
    assert evenly(range(many), count) == chosen
