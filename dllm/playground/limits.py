"""Exact limits of any decoder with a perfect model, computed from the set of right answers by trying all orders.

A perfect model gives, for every undecided position, the exact marginal over the right answers that agree with the text
written so far; all right answers are equally likely. A decoder has these marginals and nothing else. In each forward it
chooses positions freely and writes at each of them a symbol drawn from the marginal of that position ("drawn"), or the
most probable symbol with ties broken at random ("greedy"), independently of the symbols that it writes at other
positions in the same forward. No decoder can therefore coordinate two free choices in one forward, and the numbers here
bound every rule of this kind.

Time grows exponentially with the number of positions; about eight are practical.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from functools import cache
from itertools import chain, combinations, product
from math import prod
from typing import Literal

Answer = tuple[str, ...]
Values = Literal["drawn", "greedy"]
_Marginal = tuple[tuple[str, float], ...]


def fewest_forwards(answers: Collection[Answer], values: Values = "drawn") -> int:
    """Compute the fewest forwards after which the text is right whatever symbols are drawn.

    Args:
        answers: The right answers, all of one length and equally likely.
        values: Symbols that are written: "drawn" from the marginal, or "greedy", the most probable with random ties.
    """
    first = tuple(sorted(set(answers)))
    return _find_fewest(first, tuple(range(len(first[0]))), values)


@cache
def _find_fewest(answers: tuple[Answer, ...], pending: tuple[int, ...], values: Values) -> int:
    if not pending:
        return 0
    # A position with one possible symbol costs nothing beside others, so it is written at once.
    free = tuple(i for i in pending if len({answer[i] for answer in answers}) > 1)
    if not free:
        return 1
    marginals = {i: _compute_marginal(answers, i, values) for i in free}
    best = len(free) + 1
    for chosen in _subsets(free):
        # What is written in one forward is independent, so every combination must be part of a right answer.
        outcomes = _group_answers(answers, chosen)
        drawn = [tuple(symbols) for symbols in product(*([s for s, _ in marginals[i]] for i in chosen))]
        if all(symbols in outcomes for symbols in drawn):
            rest = tuple(i for i in free if i not in chosen)
            best = min(best, 1 + max(_find_fewest(outcomes[symbols], rest, values) for symbols in drawn))
    return best


def best_accuracy(answers: Collection[Answer], forwards: int, values: Values = "drawn") -> float:
    """Compute the highest probability of a right text that any choice of positions reaches.

    Args:
        answers: The right answers, all of one length and equally likely.
        forwards: Number of forwards, at least 1.
        values: Symbols that are written: "drawn" from the marginal, or "greedy", the most probable with random ties.
    """
    first = tuple(sorted(set(answers)))
    return _find_best(first, tuple(range(len(first[0]))), forwards, values)


@cache
def _find_best(answers: tuple[Answer, ...], pending: tuple[int, ...], forwards: int, values: Values) -> float:
    free = tuple(i for i in pending if len({answer[i] for answer in answers}) > 1)
    if not free:
        return 1.0 if forwards or not pending else 0.0
    if not forwards:
        return 0.0
    marginals = {i: _compute_marginal(answers, i, values) for i in free}
    # In the last forward everything must be written; before, any part of it may be.
    choices = [free] if forwards == 1 else _subsets(free)
    return max(_expect_accuracy(answers, chosen, free, marginals, forwards, values) for chosen in choices)


def _expect_accuracy(
    answers: tuple[Answer, ...],
    chosen: tuple[int, ...],
    free: tuple[int, ...],
    marginals: dict[int, _Marginal],
    forwards: int,
    values: Values,
) -> float:
    """Compute the probability of a right text if `chosen` is written now and the rest in the best way."""
    rest, total, outcomes = tuple(i for i in free if i not in chosen), 0.0, _group_answers(answers, chosen)
    for drawn in product(*(marginals[i] for i in chosen)):
        found = outcomes.get(tuple(symbol for symbol, _ in drawn))
        if found is not None:
            total += prod(share for _, share in drawn) * _find_best(found, rest, forwards - 1, values)
    return total


def _compute_marginal(answers: Sequence[Answer], position: int, values: Values) -> _Marginal:
    """Compute the symbols that may be written at a position, with their probabilities."""
    counts = Counter(answer[position] for answer in answers)
    if values == "drawn":
        return tuple((symbol, count / len(answers)) for symbol, count in counts.items())
    most = max(counts.values())
    top = [symbol for symbol, count in counts.items() if count == most]
    return tuple((symbol, 1 / len(top)) for symbol in top)


def _group_answers(answers: Sequence[Answer], chosen: tuple[int, ...]) -> dict[Answer, tuple[Answer, ...]]:
    """Group the answers by their symbols at the chosen positions."""
    outcomes: dict[Answer, list[Answer]] = {}
    for answer in answers:
        outcomes.setdefault(tuple(answer[i] for i in chosen), []).append(answer)
    return {key: tuple(found) for key, found in outcomes.items()}


def _subsets(items: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """Iterate over all subsets except the empty one, large ones first."""
    return chain.from_iterable(combinations(items, size) for size in range(len(items), 0, -1))
