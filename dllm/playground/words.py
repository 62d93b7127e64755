"""The words of list tasks: short, in lower case, one token each."""

from __future__ import annotations

from random import Random

WORDS = (
    "ant", "apple", "ball", "bear", "bird", "blue", "book", "bread", "cake", "cat", "coin", "cup", "dog", "door", "egg",
    "fish", "flower", "frog", "green", "hand", "hat", "house", "ice", "jar", "key", "kite", "lamp", "leaf", "lion",
    "milk", "moon", "mouse", "nest", "nut", "orange", "owl", "pen", "pig", "queen", "rain", "red", "ring", "river",
    "salt", "ship", "shoe", "snow", "star", "stone", "sun", "table", "tree", "wind", "wolf",
)  # fmt: skip
"""Words that every list task draws from."""


def draw_words(rng: Random, count: int) -> list[str]:
    """Draw `count` different words in random order."""
    return rng.sample(WORDS, count)


def read_words(prompt: str) -> list[str]:
    """Read the words after the last colon of a prompt."""
    return prompt.rpartition(":")[2].split()
