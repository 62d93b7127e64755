"""A sample of the laws of decoding on a device, and of the product of parts beside the same work on the CPU."""

from __future__ import annotations

import functools
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from typing import Any

import torch

from benchmarks.device.budget import Budget
from benchmarks.device.session import Row
from benchmarks.device.twins import compare, on_device, to_host
from dllm import (
    KLASS,
    WINO,
    CertaintyPrior,
    CreditDecoding,
    DelayedCache,
    EntropyBound,
    EqualSplit,
    Factor,
    JointThreshold,
    Random,
    ReMDM,
    Saber,
    SlidingCache,
    Speculative,
    Threshold,
    TopK,
    VicinityCache,
)
from dllm.caches import PrefixCache
from dllm.models.compiled import CompiledModel
from dllm.testing import laws, tiny
from dllm.testing.cells import REQUESTS, Cell, can_rest, make_cells
from dllm.testing.suite import COMMITS, RESTS

PARTS: tuple[Any, ...] = (
    Threshold(0.6), Factor(1.0), TopK(k=1, score=Random()), TopK(pace=EqualSplit()), EntropyBound(3.0),
    KLASS(0.2, kl=0.5, history=1), CertaintyPrior(TopK(k=1), sigma=3.0), Saber(), WINO(0.3, 0.3),
    JointThreshold(0.5, 0.3, post=1), ReMDM(3), CreditDecoding(), Speculative(PrefixCache(), drafts=3),
    VicinityCache(before=3, after=2, warmup=2), SlidingCache(before=3, after=1, written=6), DelayedCache(refresh=4),
)  # fmt: skip
"""Parts of every habit, each of which is tried with all others of every kind."""

CLOSE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Probabilities of a model on two devices that differ by no more than this are equal up to rounding."""


@functools.cache
def sample(seed: int = 0) -> list[Cell]:
    """All cells of the parts in a seeded order in which the first cells hold every part once, and so on."""
    order = random.Random(seed)
    decks = []
    for part in PARTS:
        deck = make_cells(part)
        order.shuffle(deck)
        decks.append(deck)
    return [cell for round in zip_longest(*decks) for cell in round if cell is not None]


@dataclass
class LawCheck:
    """Laws in one precision, eager or compiled.

    Attributes:
        device: Where it is decoded.
        dtype: Precision of the weights.
        compiled: Whether forwards go through `torch.compile`. Rows are then not decoded alone: more shapes, more
            compilations.
        most: Cells at most.
    """

    device: torch.device
    dtype: torch.dtype
    compiled: bool
    most: int
    models: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    def rows(self, budget: Budget) -> Iterator[Row]:
        """A row a cell, as many as fit into the budget, and how many were not reached."""
        chosen = sample()[: self.most]
        if self.compiled:
            torch._dynamo.reset()  # one that was cut off in the middle leaves its graphs behind
        done = 0
        for done, cell in enumerate(chosen, start=1):  # noqa: B007
            begun = time.monotonic()
            row = self.check(cell)
            yield {"what": "laws", **self.about(), "cell": f"{cell[0]}: {cell[1]!r}"[:300], **row,
                   "seconds": round(time.monotonic() - begun, 2)}  # fmt: skip
            if budget.left < 0:
                break
        yield {"what": "laws reached", **self.about(), "cells": done, "of": len(chosen)}

    def about(self) -> Row:
        return {"dtype": str(self.dtype).removeprefix("torch."), "compiled": self.compiled}

    def pair(self, geometry: str) -> tuple[Any, Any]:
        """The model of a geometry on the device, and the same on the CPU."""
        if geometry not in self.models:
            ours = on_device(tiny.tiny_model(geometry), self.device, self.dtype)
            twin = on_device(tiny.tiny_model(geometry), torch.device("cpu"), self.dtype)
            self.models[geometry] = (CompiledModel.of(ours) if self.compiled else ours, twin)
        return self.models[geometry]

    def check(self, cell: Cell) -> Row:
        """Try one cell: the laws, and the difference to the CPU."""
        geometry, strategy = cell
        model, twin = self.pair(geometry)
        try:
            stream, results = laws.run_batch(model, REQUESTS, strategy)
            stream = [to_host(step) for step in stream]
            obey(cell, model, twin, stream, results, exact=self.dtype == torch.float32, alone=not self.compiled)
        except AssertionError as error:
            return {"outcome": "broken", "error": str(error)[:300]}
        except Exception as error:
            return {"outcome": "error", "error": f"{type(error).__name__}: {error}"[:300]}
        found = compare(stream, laws.run_batch(twin, REQUESTS, strategy)[0])
        outcome = "equal"
        if found.parted:
            outcome = "close call" if found.difference <= CLOSE[self.dtype] else "differs"
        return {"outcome": outcome, "steps": found.steps, "difference": found.difference}


def obey(cell: Cell, model: Any, twin: Any, stream: list[Any], results: list[Any], exact: bool, alone: bool) -> None:
    """Every law that a stream (host) of the model must obey. Raises AssertionError.

    Args:
        cell: The geometry's name, and the strategy.
        model: What decoded.
        twin: The same on the CPU, where the laws lay out their canvas.
        stream: Its steps.
        results: Its results.
        exact: In float32, predictions that rest on nothing stale must be those of the twin run whole, and rows must
            not depend on their neighbours. In bfloat16 products of another size round otherwise.
        alone: Whether each row is decoded alone too.
    """
    strategy = cell[1]
    loose = can_rest(strategy)
    laws.rows_finish_in_time(twin, REQUESTS, strategy, stream, allowance=RESTS if loose else COMMITS)
    laws.every_step_progresses(stream, loose)
    laws.decided_stays(twin, REQUESTS, strategy, stream)
    laws.windows_tile(twin, REQUESTS, strategy, stream)
    if exact and not strategy.sampling.processors:
        laws.fresh_is_exact(twin, REQUESTS, strategy, stream)
    if exact and alone:
        laws.rows_are_independent(model, REQUESTS, strategy, results)
