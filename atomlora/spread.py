"""Some of many, evenly spread."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Item = TypeVar("Item")


def evenly(items: Sequence[Item], count: int) -> list[Item]:
    """`count` of the items in their order, evenly spread from the first on; all, where there are no more."""
    many = min(count, len(items))
    return [items[number * len(items) // many] for number in range(many)]
