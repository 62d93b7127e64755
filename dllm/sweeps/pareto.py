"""The Pareto front: what no other is both faster and better than."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def pareto_front(items: Iterable[T], speed: Callable[[T], float], quality: Callable[[T], float]) -> list[T]:
    """Those that no other beats in one of the two and equals in the other, slowest first; of equals the first."""
    kept: list[T] = []
    for item in sorted(items, key=lambda x: (-speed(x), -quality(x))):
        if not kept or quality(item) > quality(kept[-1]):
            kept.append(item)
    return kept[::-1]
