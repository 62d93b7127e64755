"""Latin squares: every symbol once in each row and column, otherwise free."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from random import Random

from dllm.playground.base import Example, Task, check_size
from dllm.playground.limits import Answer


class Latin(Task):
    """A square of `size` rows, to be filled with `size` given digits, each once in every row and column."""

    name = "latin"
    title = "Fill a square with given digits so that each stands once in every row and every column."
    structure = "Cells of a row or column depend on each other, all others only through these."
    sizes = (2, 3, 4, 5)
    default_size = 4

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 2, 6)
        symbols = rng.sample("123456789", size)
        rows = _draw_square(rng, size)
        return Example(
            f"Latin square: {''.join(symbols)}", _format_square([[symbols[s] for s in row] for row in rows]), size
        )

    def is_right(self, example: Example, text: str) -> bool:
        symbols = set(_read_symbols(example))
        rows = text.split()
        square = len(rows) == example.size and all(len(row) == example.size for row in rows)
        return square and all(set(line) == symbols for line in (*rows, *zip(*rows, strict=True)))

    def answers(self, example: Example) -> Iterator[Answer]:
        def extend(rows: tuple[tuple[str, ...], ...]) -> Iterator[Answer]:
            if len(rows) == example.size:
                yield tuple(symbol for row in rows for symbol in row)
                return
            for row in permutations(_read_symbols(example)):
                if all(row[i] != above[i] for above in rows for i in range(example.size)):
                    yield from extend((*rows, row))

        return extend(())

    def _enumerate_answers(self, example: Example) -> list[Answer]:
        # A square of size 4 has 16 symbols, too many to try all orders.
        return list(self.answers(example)) if example.size <= 3 else []


def _draw_square(rng: Random, size: int) -> list[list[int]]:
    """Draw a Latin square of the numbers below `size` row by row, starting again where no further row is found.

    All squares can be drawn; from size 4 on they are not exactly equally likely.
    """
    while True:
        rows: list[list[int]] = []
        while len(rows) < size:
            row = _draw_row(rng, rows, size)
            if row is None:
                break
            rows.append(row)
        else:
            return rows


def _draw_row(rng: Random, rows: list[list[int]], size: int) -> list[int] | None:
    """Draw a row that repeats no number of a column, or return None if 200 attempts find none."""
    for _ in range(200):
        row = rng.sample(range(size), size)
        if all(row[i] != above[i] for above in rows for i in range(size)):
            return row
    return None


def _read_symbols(example: Example) -> str:
    """Read the digits of the square from a prompt."""
    return example.prompt.rpartition(" ")[2]


def _format_square(rows: list[list[str]]) -> str:
    """Write a square with one row on each line."""
    return "\n".join("".join(row) for row in rows)
