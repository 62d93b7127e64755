"""The Pareto front: the items for which no other is both faster and better."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(items: Iterable[T], speed: Callable[[T], float], quality: Callable[[T], float]) -> list[T]:
    """Return the items that no other beats in one of the two measures and equals in the other.

    Args:
        items: Items to choose from.
        speed: Measure of an item; more is better.
        quality: Second measure of an item; more is better.

    Returns:
        The front, slowest first. Of items that are equal in both measures only the first is in it.
    """
    kept: list[T] = []
    for item in sorted(items, key=lambda x: (-speed(x), -quality(x))):  # from fast to slow, quality must go up
        if not kept or quality(item) > quality(kept[-1]):
            kept.append(item)
    return kept[::-1]
