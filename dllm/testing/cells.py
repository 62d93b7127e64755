"""The cells in which a part is tried: with parts of every other kind, over every geometry of attention."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import product
from typing import Any

from dllm.caches import DualCache, NoCache, PrefixCache
from dllm.compose.expressions import read_part
from dllm.compose.names import TABLES
from dllm.engine.batch import match_block_size
from dllm.errors import ConfigError
from dllm.policies import KLASS, CertaintyPrior, EarlyCommit, EqualSplit, NegativeEntropy, Threshold, TimeSchedule, TopK
from dllm.requests import Request, make_canvas
from dllm.schedulers import Blocks, Whole
from dllm.strategy import Sampling, Strategy
from dllm.testing.tiny import GEOMETRIES, STOP, tiny_model
from dllm.types import Cache, Policy, Scheduler, has_field

Cell = tuple[str, Strategy]
"""Name of a geometry, and a strategy for it."""

REQUESTS = [
    Request((3, 7, 1, 22, 9), max_new_tokens=13, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), max_new_tokens=8, seed=2, stop_ids=(STOP,)),
]
"""Two rows of unequal prompts and lengths; one has an end token."""

POLICIES: list[Policy] = [
    Threshold(0.6),
    TopK(k=2, score=NegativeEntropy()),
    TopK(pace=EqualSplit()),
    KLASS(0.2, kl=0.5, history=1),
    CertaintyPrior(TopK(k=1), sigma=3.0),
    TopK(pace=TimeSchedule(), score=NegativeEntropy()),
]
"""Policies of every character: stateless, of fixed number, paced, with state, with geometry, and one that rests."""

SCHEDULERS: list[Scheduler] = [
    Blocks(8),
    Blocks(8, sub_block=4),
    Blocks(8, commit=True),
    Blocks(8, sub_block=2, commit=True),
    Blocks(8, first_alone=True),
    Whole(),
]

CACHES: list[Cache] = [
    NoCache(),
    PrefixCache(),
    PrefixCache(refresh=2),
    DualCache(),
    DualCache(refresh=3),
    DualCache(while_first=True),
]

PARTNERS: dict[str, Sequence[Any]] = {"policy": POLICIES, "scheduler": SCHEDULERS, "cache": CACHES}


def make_cells(part: Any) -> list[Cell]:
    """Make every cell of a part; those that a part refuses are left out.

    Args:
        part: An object, or an expression.

    Raises:
        ConfigError: Nothing is left, or the part is of no kind.
    """
    part = resolve_part(part)
    kind = find_part_kind(part)
    sampling = Sampling(processors=(part,)) if kind == "processor" else Sampling()
    axes = PARTNERS | _choose_axis(part, kind)
    found = [
        (geometry, Strategy(policy, _add_needed_steps(scheduler, policy), cache, sampling))
        for geometry, policy, scheduler, cache in product(GEOMETRIES, *(axes[name] for name in PARTNERS))
        if _can_combine(scheduler, policy)
    ]
    possible = [cell for cell in found if find_refusal(cell) is None]
    if not possible:
        raise ConfigError(f"{part} refuses every model and every part, for example: {find_refusal(found[0])}")
    return possible


def resolve_part(part: Any) -> Any:
    """Make the part that an expression describes; an object is returned as it is."""
    return read_part(part, Any) if isinstance(part, str) else part


def _choose_axis(part: Any, kind: str) -> dict[str, Sequence[Any]]:
    """Choose the parts on the axis of a part: it alone, or policies of which it is a field."""
    if kind in PARTNERS:
        return {kind: [part]}
    if kind == "score":
        return {"policy": [TopK(k=1, score=part), TopK(k=3, score=part), TopK(pace=EqualSplit(), score=part)]}
    if kind == "pace":
        return {"policy": [TopK(pace=part)]}
    return {"policy": [EarlyCommit(TopK(k=1), part)] if kind == "curve" else POLICIES}


def find_part_kind(part: Any) -> str:
    """Find the kind of a part: that of the table which has its class or a base of it, or else of the method it has.

    Raises:
        ConfigError: It is no part.
    """
    for made, table in product(type(part).__mro__, TABLES.values()):
        if table.name_of(made) is not None:
            return table.kind
    for kind, table in TABLES.items():
        if table.accepts(type(part)):
            return kind
    raise ConfigError(f"{part!r} is no part: it has no method of any kind of part, which dllm.compose.names lists")


def _add_needed_steps(scheduler: Scheduler, policy: Policy) -> Scheduler:
    """Give a scheduler the steps that a policy with a pace needs."""
    if policy.paced and has_field(scheduler, "steps") and scheduler.steps is None:
        return replace(scheduler, steps=4)  # type: ignore[type-var]
    return scheduler


def _can_combine(scheduler: Scheduler, policy: Policy) -> bool:
    """Tell whether one has steps where the other has a pace, or neither."""
    planned = _add_needed_steps(scheduler, policy).steps
    return policy.paced == (planned is not None)


def find_refusal(cell: Cell) -> ConfigError | None:
    """Find why a cell is impossible: the error that its parts raise for the model, or None."""
    geometry, strategy = cell
    try:
        adapted = match_block_size(tiny_model(geometry), strategy)
        canvas = make_canvas(adapted, REQUESTS)
        strategy.policy.init(canvas)
        strategy.scheduler.init(canvas, adapted)
        strategy.cache.init(canvas, adapted)
    except ConfigError as error:
        return error
    return None


def can_rest(part: Any) -> bool:
    """Tell whether a part, or one within it, has a quota of zero at some steps."""
    return any(bool(getattr(inner, "rests", False)) for inner in iterate_parts(part))


def iterate_parts(part: Any) -> Iterable[Any]:
    """Yield a part and all the parts that are its fields."""
    yield part
    values = part if isinstance(part, tuple) else ()
    if is_dataclass(part) and not isinstance(part, type):
        values = tuple(getattr(part, field.name) for field in fields(part))
    for value in values:
        yield from iterate_parts(value)
