"""Uncertainty of a share, against published values and the normal approximation."""

from __future__ import annotations

import math

import pytest

from dllm.sweeps.intervals import probability_of_keeping, probability_of_reaching, wilson_interval


def test_wilson_against_published_values() -> None:
    low, high = wilson_interval(81, 263)  # Newcombe 1998, table I: .2553 to .3662
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson_interval(0, 20)
    assert low == 0 and round(high, 4) == 0.1611
    assert wilson_interval(0, 0) == (0.0, 1.0)


def test_chance_of_a_target_is_that_of_the_normal_approximation() -> None:
    exact = 0.5 * (1 + math.erf((0.8 - 0.78) / math.sqrt(0.8 * 0.2 / 1000) / math.sqrt(2)))
    assert probability_of_reaching(800, 1000, 0.78) == pytest.approx(exact, abs=0.02)
    assert probability_of_reaching(10, 10, 0.0) == 1 and probability_of_reaching(0, 10, 0.9) == 0


def test_chance_of_a_small_fall() -> None:
    fall = (20 - 10) / 1000
    spread = math.sqrt(30 / 1000 - fall**2) / math.sqrt(1000)
    exact = 0.5 * (1 + math.erf((0.02 - fall) / spread / math.sqrt(2)))
    assert probability_of_keeping(10, 20, 1000, 0.02) == pytest.approx(exact, abs=0.02)
    assert probability_of_keeping(50, 50, 1000, 0.0) == pytest.approx(0.5, abs=0.02)
    assert probability_of_keeping(0, 0, 20, 0.05) < 0.97, "twenty equal answers prove little"
