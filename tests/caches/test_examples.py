"""Which columns each cache runs, step by step, written out by hand.

One token is decided a step, from left to right, in blocks of four behind a prompt of four: columns 4 to 11.
"""

from __future__ import annotations

import pytest
import torch

from dllm import (
    Blocks,
    DelayedCache,
    DualCache,
    LeftToRight,
    PrefixCache,
    Request,
    SlidingCache,
    Strategy,
    TopK,
    VicinityCache,
)
from dllm.caches.base import CacheChoice
from dllm.requests import make_canvas
from dllm.testing import laws
from tests.caches.plain import Spy
from tests.tiny import tiny_model

ALL = list(range(12))
EXAMPLES = {
    "prefix": (PrefixCache(), [ALL, *3 * [ALL[4:]], ALL, *3 * [ALL[8:]]]),
    "dual": (DualCache(), [ALL, *3 * [[4, 5, 6, 7]], ALL, *3 * [[8, 9, 10, 11]]]),
    "vicinity": (
        VicinityCache(before=1, after=2),
        [ALL, *3 * [[3, 4, 5, 6, 7, 8, 9]], ALL, *3 * [[7, 8, 9, 10, 11]]],
    ),
    "warm-up of two, and every third": (
        VicinityCache(refresh=3, before=0, after=0, warmup=2),
        [ALL, ALL, [4, 5, 6, 7], [4, 5, 6, 7], ALL, [8, 9, 10, 11], [8, 9, 10, 11], ALL],
    ),
    "sliding": (
        SlidingCache(before=1, after=0, written=3),
        [ALL, [3, 4, 5, 6, 7], [3, 4, 5, 6, 7], ALL, ALL, [7, 8, 9, 10, 11], [7, 8, 9, 10, 11], ALL],
    ),
    "delayed": (
        DelayedCache(refresh=None),
        [ALL, ALL, [5, 6, 7, 8, 9, 10, 11], [6, 7, 8, 9, 10, 11], ALL, ALL, [9, 10, 11], [10, 11]],
    ),
    "delayed, every third": (
        DelayedCache(refresh=3),
        [ALL, ALL, [5, 6, 7, 8, 9, 10, 11], ALL, ALL, ALL, [9, 10, 11], ALL],
    ),
}
SHIFTED = {
    "dual": (DualCache(), [ALL, *3 * [[4, 5, 6, 7]], ALL, *3 * [[8, 9, 10, 11]]]),
    "delayed": (
        DelayedCache(refresh=None),
        [ALL, ALL, [5, 6, 7, 8, 9, 10, 11], [6, 7, 8, 9, 10, 11], ALL, ALL, [9, 10, 11], [10, 11]],
    ),
}


def ran(geometry: str, cache, requests: list[Request]) -> list[list[list[int]]]:
    """Columns that each forward ran, row by row."""
    spy = Spy(tiny_model(geometry))
    laws.run_batch(spy, requests, Strategy(TopK(k=1, score=LeftToRight()), Blocks(4), cache))
    return [[columns[valid].tolist() for columns, valid in zip(q.columns, q.valid, strict=True)] for q in spy.queries]


@pytest.mark.parametrize("name", EXAMPLES)
def test_bidirectional(name: str) -> None:
    cache, want = EXAMPLES[name]
    assert ran("bidirectional", cache, [Request((3, 7, 1, 22), 8)]) == [[columns] for columns in want]


@pytest.mark.parametrize("name", SHIFTED)
def test_token_shift_needs_no_column_more_once_the_first_is_decided(name: str) -> None:
    """What is pending has its left neighbour decided one step before, which is run again anyway."""
    cache, want = SHIFTED[name]
    assert ran("bidirectional-shift", cache, [Request((3, 7, 1, 22), 8)]) == [[columns] for columns in want]


def test_token_shift_runs_the_column_left_of_a_pending_one() -> None:
    """From right to left the left neighbour of the window is needed until the last step of a block."""
    from dllm import policies

    class RightToLeft(policies.LeftToRight):
        def __call__(self, guess, window):
            return -super().__call__(guess, window)

    spy = Spy(tiny_model("bidirectional-shift"))
    strategy = Strategy(TopK(k=1, score=RightToLeft()), Blocks(4), DelayedCache(refresh=None))
    laws.run_batch(spy, [Request((3, 7, 1, 22), 8)], strategy)
    columns = [q.columns[0][q.valid[0]].tolist() for q in spy.queries]
    assert columns[2] == [3, 4, 5, 6, 8, 9, 10, 11]  # 7 and 6 are decided, 6 in the last step; 3 predicts 4
    assert columns[3] == [3, 4, 5, 8, 9, 10, 11]
    assert columns[6:] == [[7, 8, 9, 10], [7, 8, 9]]


def test_a_window_that_moves_on_leaves_nothing_undone_behind() -> None:
    """In the step after the window has moved, what the last one decided is run once more."""
    spy = Spy(tiny_model("bidirectional"))
    cache = SlidingCache(before=0, after=0, written=None)
    laws.run_batch(
        spy, [Request((3, 7, 1, 22), 8)], Strategy(TopK(k=1, score=LeftToRight()), Blocks(8, sub_block=2), cache)
    )
    columns = [q.columns[0][q.valid[0]].tolist() for q in spy.queries]
    assert columns == [ALL, [4, 5], [4, 5, 6, 7], [6, 7], [6, 7, 8, 9], [8, 9], [8, 9, 10, 11], [10, 11]]


def test_rows_of_a_batch_run_their_own_columns() -> None:
    """A second row, with a prompt of six and one block to write, is done after four steps and leaves the store."""
    requests = [Request((3, 7, 1, 22), 8), Request((5, 2, 8, 8, 8, 1), 4)]
    short = [list(range(10)), list(range(10)), [7, 8, 9], [8, 9]]
    want = EXAMPLES["delayed"][1]
    assert ran("bidirectional", DelayedCache(refresh=None), requests) == [
        *([first, second] for first, second in zip(want[:4], short, strict=True)),
        *([first] for first in want[4:]),
    ]


def test_block_causal() -> None:
    """Blocks lie at multiples of eight; the finished one is run once more, to be stored, with the next."""
    requests = [Request((3, 7, 1, 22), 12)]
    spy = Spy(tiny_model("block-causal"))
    strategy = Strategy(TopK(k=1, score=LeftToRight()), Blocks(8), DelayedCache(refresh=None))
    laws.run_batch(spy, requests, strategy)
    assert [q.columns[0][q.valid[0]].tolist() for q in spy.queries] == [
        list(range(8)),
        list(range(8)),
        [5, 6, 7],
        [6, 7],
        list(range(16)),
        list(range(8, 16)),
        *(list(range(8 + i, 16)) for i in range(1, 7)),
    ]
    sliding = Strategy(TopK(k=1, score=LeftToRight()), Blocks(8), SlidingCache(before=2, after=0, written=100))
    spy = Spy(tiny_model("block-causal"))
    laws.run_batch(spy, requests, sliding)
    assert [q.columns[0][q.valid[0]].tolist() for q in spy.queries] == [
        *4 * [list(range(8))],
        list(range(16)),
        *7 * [list(range(8, 16))],
    ]


def test_a_window_that_moves_back_leaves_nothing_undone_ahead() -> None:
    """Should a scheduler go back to the left, what its last window held on the right is run once more too."""
    m = tiny_model("bidirectional")
    cache = SlidingCache(before=1, after=0)
    log = cache.init(make_canvas(m, [Request((3, 7, 1, 22), 8)]), m).log
    here = {name: torch.tensor([value]) for name, value in {"whole": 0, "block": 4, "left": 5, "window": 7}.items()}
    log = log._replace(start=torch.tensor([6]), end=torch.tensor([10]))
    found = cache.reach(CacheChoice(refresh=torch.tensor([False]), ends=torch.tensor([12]), log=log, **here))
    assert (found.start.tolist(), found.end.tolist()) == ([4], [10])
