"""The path in a star graph from the centre to the end of one arm; only that end determines the arm."""

from __future__ import annotations

from itertools import pairwise
from random import Random

from dllm.playground.base import Example, OneAnswer, check_size

NODES = "0123456789"


class Star(OneAnswer):
    """The path from the centre of a star to the end of one arm, of `size` steps.

    All edges are given in random order. From left to right, the first step is a guess among the arms unless the model
    follows the whole path at once; from the goal backwards, each step needs one edge.
    """

    name = "star"
    title = "Find the path from the centre of a star graph to the end of one of its arms."
    structure = "Each node is fixed by the prompt, most easily seen from the node behind it; the first one hardest."
    sizes = (1, 2, 3, 4)
    default_size = 3

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 4)
        arms = min(4, (len(NODES) - 1) // size)
        centre, *others = rng.sample(NODES, 1 + arms * size)
        paths = [[centre, *others[i * size : (i + 1) * size]] for i in range(arms)]
        edges = [one + two for path in paths for one, two in pairwise(path)]
        rng.shuffle(edges)
        goal = rng.choice(paths)
        return Example(f"Path {centre} to {goal[-1]}: {' '.join(edges)}", "".join(goal), size)
