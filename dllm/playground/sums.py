"""Additions without scratch work, and additions with every carry written out."""

from __future__ import annotations

from random import Random

from dllm.playground.base import Example, OneAnswer, check_size


class Sum(OneAnswer):
    """Two numbers of `size` digits, to be added; only the sum is written."""

    name = "sum"
    title = "Add two numbers without scratch work."
    structure = "Each digit is fixed by the prompt, but a carry may come from any digit to its right."
    sizes = (1, 2, 3)
    default_size = 3

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 9)
        one, two = _draw_numbers(rng, size)
        return Example(f"{one} + {two} =", str(one + two), size)


class Carries(OneAnswer):
    """Two numbers of `size` digits, to be added digit by digit from the right, one line for each sum and carry.

    The prompt determines every line; a small model that writes all lines at once has to compute all carries at once.
    """

    name = "carries"
    title = "Add two numbers digit by digit from the right, with every carry written out."
    structure = "Each line is fixed by the prompt and, where a carry reaches it, most easily seen from the line before."
    sizes = (2, 3, 4, 5)
    default_size = 4
    tokens = 64

    def draw(self, rng: Random, size: int, held_out: bool) -> Example:
        check_size(self, size, 1, 9)
        one, two = _draw_numbers(rng, size)
        return Example(f"Carries: {one} + {two}", _format_addition(str(one), str(two)), size)


def _draw_numbers(rng: Random, digits: int) -> tuple[int, int]:
    """Draw two numbers of that many digits."""
    low = 10 ** (digits - 1) if digits > 1 else 0
    return rng.randint(low, 10**digits - 1), rng.randint(low, 10**digits - 1)


def _format_addition(one: str, two: str) -> str:
    """Write an addition from the right, `7+5=12`, then `1+3+4=8` where there is a carry, and the sum at the end."""
    lines, carry = [], 0
    for a, b in zip(reversed(one), reversed(two), strict=True):
        total = carry + int(a) + int(b)
        lines.append(f"{'1+' if carry else ''}{a}+{b}={total}")
        carry = total // 10
    return "\n".join([*lines, str(int(one) + int(two))])
