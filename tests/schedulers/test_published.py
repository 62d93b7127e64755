"""Each advanced scheduler against a plain decoder of one row, written after its publication."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dllm import AdaptiveBlocks, NoCache, Pipeline, Request, SlidingBlock, Strategy, Threshold, VariableLength
from dllm.testing import laws
from dllm.types import Scheduler
from tests.schedulers.scripted import END, MASK, Prediction, Scripted, moody, threshold

TAU = 0.8
REQUESTS = [
    Request((3, 7, 1, 2), 30),
    Request((9, 9, 8, 1, 4, 4, 2, 0, 5), 17),
    Request((1,), 41),
    Request((2, 2, 3), 5),
]
Found = tuple[list[int], int]
"""New tokens, and forwards."""


def ours(scheduler: Scheduler, batch_size: int | None = None) -> list[Found]:
    strategy = Strategy(Threshold(TAU), scheduler, NoCache())
    from dllm import decode

    results = decode(Scripted(moody), REQUESTS, strategy, batch_size=batch_size)  # type: ignore[arg-type]
    return [(list(r.output_ids), r.nfe) for r in results]


def check(scheduler: Scheduler, plain: Callable[[Request], Found]) -> None:
    want = [plain(request) for request in REQUESTS]
    assert ours(scheduler) == want
    assert ours(scheduler, batch_size=2) == want


def blank(request: Request) -> list[int]:
    return [*request.prompt, *[MASK] * request.max_new_tokens]


def write(row: list[int], found: list[Prediction], columns: list[int]) -> None:
    for column in columns:
        row[column] = found[column][0]


def masks(row: list[int], start: int, end: int) -> list[int]:
    return [c for c in range(start, min(end, len(row))) if row[c] == MASK]


@pytest.mark.parametrize("tau", [0.3, 0.7, 2.0])
@pytest.mark.parametrize("search", [0.25, 0.5])
def test_adablock(tau: float, search: float) -> None:
    delimiters = (4, 11)

    def plain(request: Request) -> Found:
        row, nfe, start = blank(request), 0, len(request.prompt)
        while start < len(row):
            found = moody(row)
            nfe += 1
            reach = min(int(search * request.max_new_tokens), len(row) - start)
            there = [c for c in range(start, start + reach) if found[c][0] in delimiters]
            best = max(there, key=lambda c: found[c][1], default=None)
            end = min(start + 6, len(row)) if best is None or found[best][1] < tau else best + 1
            write(row, found, threshold(found, masks(row, start, end), TAU))
            while masks(row, start, end):
                found = moody(row)
                nfe += 1
                write(row, found, threshold(found, masks(row, start, end), TAU))
            start = end
        return row[len(request.prompt) :], nfe

    check(AdaptiveBlocks(6, tau=tau, delimiters=delimiters, search=search), plain)


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("width", [1, 4, 9])
def test_sliding_block(constant: bool, width: int) -> None:
    def plain(request: Request) -> Found:
        row, nfe = blank(request), 0
        start, end = len(request.prompt), len(request.prompt) + width
        while MASK in row:
            found = moody(row)
            nfe += 1
            taken = threshold(found, masks(row, 0, end), TAU)
            write(row, found, taken)
            if constant:
                start = min((c for c in range(start, len(row)) if row[c] == MASK), default=len(row))
                end = start + width
            else:
                end = min(end + len(taken), len(row))
        return row[len(request.prompt) :], nfe

    check(SlidingBlock(width, longest=width if constant else None), plain)


@pytest.mark.parametrize(("add", "activate"), [(0.1, 0.95), (0.5, 0.5), (0.3, 0.2), (1.0, 1.0)])
def test_d2f(add: float, activate: float) -> None:
    def plain(request: Request) -> Found:
        row, size, nfe = blank(request), 5, 0
        bounds: list[tuple[int, int]] = []
        full: list[bool] = []
        while True:
            if not bounds or (1 - left(row, bounds[-1]) >= add and bounds[-1][1] < len(row)):
                start = bounds[-1][1] if bounds else len(request.prompt)
                bounds.append((start, min(start + size, len(row))))
                full.append(len(bounds) == 1)
            for i in range(1, len(bounds)):
                full[i] = full[i] or 1 - left(row, bounds[i - 1]) >= activate
            if not any(left(row, b) for b in bounds):
                return row[len(request.prompt) :], nfe
            found = moody(row)
            nfe += 1
            taken = []
            for b, forced in zip(bounds, full, strict=True):
                open_ = masks(row, *b)
                sure = [c for c in open_ if found[c][1] >= TAU]
                taken += sure if sure or not (forced and open_) else threshold(found, open_, TAU)
            write(row, found, taken)

    def left(row: list[int], bounds: tuple[int, int]) -> float:
        return len(masks(row, *bounds)) / (bounds[1] - bounds[0])

    check(Pipeline(5, add=add, activate=activate), plain)


@pytest.mark.parametrize(("initial", "growth", "tail"), [(4, 3, 4), (7, 5, 3), (40, 8, 4), (2, 2, 2)])
@pytest.mark.parametrize(("enough", "certain", "low"), [(0.3, 0.6, 0.4), (0.0, 2.0, 0.5), (0.4, 0.0, 0.9)])
def test_daedal(initial: int, growth: int, tail: int, enough: float, certain: float, low: float) -> None:
    def plain(request: Request) -> Found:
        prompt, most = len(request.prompt), len(request.prompt) + request.max_new_tokens
        row, nfe, block, growing = blank(request)[: prompt + initial], 0, prompt, True

        def end_confidence(found: list[Prediction]) -> float:
            ends = [found[c][1] for c in range(len(row) - 1, block - 1, -1) if found[c][0] == END][:tail]
            return sum(ends) / min(tail, len(row) - block)

        while MASK in row:
            found = moody(row)
            nfe += 1
            if growing and end_confidence(found) < enough and len(row) < most:
                row += [MASK] * min(growth, most - len(row))
                continue
            growing = False
            taken = threshold(found, masks(row, block, block + 6), TAU)
            lost = [c for c in masks(row, block, block + 6) if c not in taken and found[c][1] < low]
            write(row, found, taken)
            if lost and end_confidence(found) < certain and len(row) < most:
                at = min(lost, key=lambda c: found[c][1])
                row[at:at] = [MASK] * min(growth - 1, most - len(row))
            while block < len(row) and not masks(row, block, block + 6):
                block += 6
        return row[prompt:], nfe

    scheduler = VariableLength(6, initial, growth, enough, certain, low, tail, ends=(END,))
    check(scheduler, plain)


def test_daedal_grows_and_inserts() -> None:
    """The cases above do what they are for."""
    strategy = Strategy(Threshold(TAU), VariableLength(6, 7, 5, 0.3, 0.6, 0.4, 3, ends=(END,)), NoCache())
    stream, _ = laws.run_batch(Scripted(moody), REQUESTS, strategy)
    grown = inserted = 0
    for step in stream:
        if step.moved is not None:
            new = (step.moved < 0).sum(1)
            grown += int((new[~step.window.pending.any(1)] > 0).sum())
            inserted += int((new[step.window.pending.any(1)] > 0).sum())
    assert grown >= 3 and inserted >= 3
