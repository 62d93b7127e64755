"""Sudoku of 4 × 4 and 6 × 6 cells with one solution, which the prompt as a whole determines."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import ClassVar

from dllm.playground.base import Example, OneAnswer, check_size, is_held_out

Grid = list[list[int]]
RELABELLED = 40
"""Number of times that a puzzle gets other digits in search of a prompt of the split."""


class Sudoku(OneAnswer):
    """A puzzle with `size` empty cells, written as 0, and one solution.

    A perfect model fills all cells in one forward. A small model can infer some cells from the prompt and others only
    after these are filled, so that its accuracy depends on the order.
    """

    height: ClassVar[int]
    width: ClassVar[int]
    structure = "Each cell is fixed by the prompt, but what a small model can see of it depends on cells filled before."

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, self.sizes[-1])
        while True:
            puzzle, solution = self._draw_puzzle(rng, size)
            # Other digits make another prompt of the same puzzle, for less than a new one takes.
            for _ in range(RELABELLED):
                digits = [0, *rng.sample(range(1, len(puzzle) + 1), len(puzzle))]
                prompt = f"Sudoku {len(puzzle)}:\n{_format_grid(puzzle, digits)}"
                if is_held_out(prompt) == held_out:
                    return Example(prompt, _format_grid(solution, digits), size)

    def _draw_puzzle(self, rng: Random, size: int) -> tuple[Grid, Grid]:
        """Draw a puzzle with `size` empty cells, and its solution."""
        side = self.height * self.width
        while True:
            solution = next(iterate_solutions([[0] * side for _ in range(side)], self.height, self.width, rng))
            puzzle = self._empty_cells(rng, solution, size)
            if puzzle is not None:
                return puzzle, solution

    def _empty_cells(self, rng: Random, solution: Grid, empty: int) -> Grid | None:
        """Empty cells of a solution in random order while it stays the only one; None if too few can be emptied."""
        grid = [list(row) for row in solution]
        side = len(grid)
        for cell in rng.sample(range(side * side), side * side):
            row, column = divmod(cell, side)
            if not empty:
                break
            kept, grid[row][column] = grid[row][column], 0
            if self._has_several_solutions(grid):
                grid[row][column] = kept
            else:
                empty -= 1
        return None if empty else grid

    def _has_several_solutions(self, grid: Grid) -> bool:
        """Return True if a puzzle has a second solution."""
        found = iterate_solutions([list(row) for row in grid], self.height, self.width)
        next(found)
        return next(found, None) is not None


class Sudoku4(Sudoku):
    """4 × 4 cells in blocks of 2 × 2."""

    name = "sudoku4"
    title = "Solve a Sudoku of 4 × 4 cells in blocks of 2 × 2."
    height, width = 2, 2
    sizes = tuple(range(3, 12))
    default_size = 8


class Sudoku6(Sudoku):
    """6 × 6 cells in blocks of 2 × 3."""

    name = "sudoku6"
    title = "Solve a Sudoku of 6 × 6 cells in blocks of 2 rows and 3 columns."
    height, width = 2, 3
    sizes = tuple(range(4, 23))
    default_size = 12
    tokens = 64


def iterate_solutions(grid: Grid, height: int, width: int, rng: Random | None = None) -> Iterator[Grid]:
    """Iterate over all ways to fill the zeros of a grid.

    Args:
        grid: The puzzle, which the search modifies.
        height: Rows of a block.
        width: Columns of a block.
        rng: Source of the order of solutions; None: ascending digits.
    """
    side, best = height * width, None
    for row in range(side):
        for column in range(side):
            if not grid[row][column]:
                found = _list_possible_digits(grid, row, column, height, width)
                if best is None or len(found) < len(best[2]):
                    best = (row, column, found)
    if best is None:  # no cell is empty
        yield [list(row) for row in grid]
        return
    row, column, found = best
    if rng is not None:
        rng.shuffle(found)
    for digit in found:
        grid[row][column] = digit
        yield from iterate_solutions(grid, height, width, rng)
        grid[row][column] = 0


def _list_possible_digits(grid: Grid, row: int, column: int, height: int, width: int) -> list[int]:
    """List the digits that are not in the row, the column or the block of a cell."""
    top, left = row - row % height, column - column % width
    used = {*grid[row], *(line[column] for line in grid)}
    used |= {digit for line in grid[top : top + height] for digit in line[left : left + width]}
    return [digit for digit in range(1, height * width + 1) if digit not in used]


def _format_grid(grid: Grid, digits: list[int]) -> str:
    """Write a grid with one row on each line, each number n as `digits[n]`."""
    return "\n".join("".join(str(digits[cell]) for cell in row) for row in grid)
