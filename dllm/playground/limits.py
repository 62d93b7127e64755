"""How well any decoder can do with a perfect model: exact limits of a set of right answers, by trying all orders.

A perfect model knows, for every undecided position, the exact marginal over the right answers that agree with what is
written (all right answers being equally likely). A decoder sees these marginals and nothing else. In each forward it
chooses positions freely and writes at each of them a symbol that it draws from the position's own marginal, or, greedy,
the most probable symbol with ties broken by chance: independently of what it writes elsewhere in the same forward.
So no decoder can coordinate two free choices in one forward, and the numbers here bound every rule of this kind.

Time grows exponentially with the positions: about eight are practical.
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
    """The fewest forwards after which the text is right, however chance decides.

    Args:
        answers: The right answers, all of one length and equally likely.
        values: "drawn": a symbol is drawn from its marginal; "greedy": it is the most probable, ties by chance.
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
    """The highest probability of a right text that any choice of positions reaches in so many forwards.

    Args:
        answers: The right answers, all of one length and equally likely.
        forwards: How many forwards there are, at least 1.
        values: "drawn": a symbol is drawn from its marginal; "greedy": it is the most probable, ties by chance.
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
    """Probability of a right text after writing `chosen` and then going on as well as possible."""
    rest, total, outcomes = tuple(i for i in free if i not in chosen), 0.0, _group_answers(answers, chosen)
    for drawn in product(*(marginals[i] for i in chosen)):
        found = outcomes.get(tuple(symbol for symbol, _ in drawn))
        if found is not None:
            total += prod(share for _, share in drawn) * _find_best(found, rest, forwards - 1, values)
    return total


def _compute_marginal(answers: Sequence[Answer], position: int, values: Values) -> _Marginal:
    counts = Counter(answer[position] for answer in answers)
    if values == "drawn":
        return tuple((symbol, count / len(answers)) for symbol, count in counts.items())
    most = max(counts.values())
    top = [symbol for symbol, count in counts.items() if count == most]
    return tuple((symbol, 1 / len(top)) for symbol in top)


def _group_answers(answers: Sequence[Answer], chosen: tuple[int, ...]) -> dict[Answer, tuple[Answer, ...]]:
    """The answers by what they have at the chosen positions."""
    outcomes: dict[Answer, list[Answer]] = {}
    for answer in answers:
        outcomes.setdefault(tuple(answer[i] for i in chosen), []).append(answer)
    return {key: tuple(found) for key, found in outcomes.items()}


def _subsets(items: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    """All subsets but the empty one, large ones first."""
    return chain.from_iterable(combinations(items, size) for size in range(len(items), 0, -1))
