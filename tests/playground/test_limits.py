"""Limits: what a task's formula says is what trying every order of every answer finds, and what an oracle reaches."""

from __future__ import annotations

from itertools import product
from random import Random
from typing import get_args

import pytest

from dllm.playground import Example, task
from dllm.playground.limits import Answer, Values, best_accuracy, fewest_forwards

SMALL = (
    *(("shuffle", size) for size in (1, 2, 3, 4)),
    *(("replace", size) for size in (1, 2, 3, 4, 5)),
    *(("insert", size) for size in (1, 2, 3, 4, 5)),
    *(("remove", size) for size in (2, 3, 4, 5, 6)),
    *(("pairs", size) for size in (1, 2)),
    *(("agreement", size) for size in (1, 2)),
)


@pytest.mark.parametrize("values", get_args(Values))
@pytest.mark.parametrize(("name", "size"), SMALL)
def test_formulas_are_what_trying_all_orders_finds(name: str, size: int, values: Values) -> None:
    kind = task(name)
    example = any_example(name, size)
    answers = list(kind.answers(example))
    limit = fewest_forwards(answers, values)
    assert kind.limit(example, values) == limit
    for forwards in range(1, limit + 2):
        found = best_accuracy(answers, forwards, values)
        assert kind.best_accuracy(example, forwards, values) == pytest.approx(found)
        assert (found == pytest.approx(1)) == (forwards >= limit)


def any_example(name: str, size: int) -> Example:
    """An example of a size that may be too small for held-out prompts."""
    return task(name).draw(Random(0), size, False)


@pytest.mark.parametrize(
    ("name", "size", "drawn", "greedy"),
    [
        ("copy", 8, 1, 1), ("sort", 8, 1, 1), ("shuffle", 9, 9, 9), ("replace", 9, 9, 2), ("insert", 6, 3, 2),
        ("insert", 7, 4, 2), ("remove", 8, 3, 1), ("remove", 9, 4, 1), ("pairs", 5, 2, 2), ("agreement", 3, 2, 2),
        ("sudoku6", 12, 1, 1), ("carries", 4, 1, 1), ("star", 3, 1, 1), ("problems", 2, 1, 1),
    ],
)  # fmt: skip
def test_limits_of_sizes_that_cannot_be_tried(name: str, size: int, drawn: int, greedy: int) -> None:
    example = task(name).example(0, size)
    assert (task(name).limit(example), task(name).limit(example, "greedy")) == (drawn, greedy)


def test_latin_squares_of_three_need_three_forwards() -> None:
    assert task("latin").limit(any_example("latin", 2)) == 2
    assert task("latin").limit(any_example("latin", 3)) == 3
    assert task("latin").limit(any_example("latin", 4)) is None


def test_brackets_are_tried_where_they_are_few() -> None:
    kind = task("brackets")
    for size in (2, 4, 5, 6):
        example = kind.example(0, size)
        limit = kind.limit(example)
        assert limit is not None and kind.best_accuracy(example, limit) == 1.0
        assert limit == 1 or (kind.best_accuracy(example, limit - 1) or 0) < 1
    assert kind.limit(kind.example(0, 12)) is None


def test_more_forwards_are_never_worse() -> None:
    for name, size in (("shuffle", 7), ("replace", 7)):
        example = task(name).example(0, size)
        found = [task(name).best_accuracy(example, n) or 0.0 for n in range(1, size + 1)]
        assert found == sorted(found) and found[-1] == 1.0 and found[0] < 0.5


def test_shuffling_at_once_is_right_as_often_as_independent_draws_differ() -> None:
    assert task("shuffle").best_accuracy(any_example("shuffle", 5), 1) == pytest.approx(120 / 5**5)
    assert task("pairs").best_accuracy(any_example("pairs", 3), 1) == pytest.approx(1 / 64)


def test_joints_with_known_limits() -> None:
    coins = list(product("ab", repeat=3))
    parity = [bits for bits in product("01", repeat=4) if bits.count("1") % 2 == 0]
    same = [("a",) * 4, ("b",) * 4]
    assert [fewest_forwards(joint) for joint in (coins, parity, same, [("x", "y")])] == [1, 2, 2, 1]
    assert best_accuracy(parity, 1) == pytest.approx(0.5) and best_accuracy(same, 1) == pytest.approx(1 / 8)
    skewed = [*product("ab", repeat=2), ("a", "c"), ("c", "a")]
    assert fewest_forwards(skewed, "greedy") == 1 and fewest_forwards(skewed) == 2


@pytest.mark.parametrize(("name", "size"), [("shuffle", 4), ("replace", 4), ("insert", 3), ("remove", 4)])
def test_a_sampling_oracle_never_beats_the_limit_and_reaches_it_one_symbol_a_forward(name: str, size: int) -> None:
    """An oracle that draws each symbol from its exact marginal, positions chosen by chance."""
    kind, rng = task(name), Random(0)
    example = any_example(name, size)
    answers = list(kind.answers(example))
    columns = len(answers[0])
    for group in (1, 2, columns):
        right = sum(decoded(rng, answers, group) in answers for _ in range(600)) / 600
        best = kind.best_accuracy(example, -(-columns // group))
        assert best is not None and right <= best + 0.06
        assert group > 1 or right == 1.0


def decoded(rng: Random, answers: list[Answer], group: int) -> Answer:
    """A text written `group` positions a forward, each drawn from its marginal over the answers that still agree."""
    written: dict[int, str] = {}
    order = rng.sample(range(len(answers[0])), len(answers[0]))
    for start in range(0, len(order), group):
        agreeing = [answer for answer in answers if all(answer[i] == symbol for i, symbol in written.items())]
        if not agreeing:
            return ()
        written |= {i: rng.choice(agreeing)[i] for i in order[start : start + group]}
    return tuple(written[i] for i in range(len(order)))
