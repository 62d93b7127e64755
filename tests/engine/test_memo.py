"""An answer is kept for the very same objects, and for no others, equal ones included."""

from __future__ import annotations

import torch

from dllm import Blocks, DualCache, Request, Strategy, Threshold, steps
from dllm.engine.memo import IdentityMemo
from tests.tiny import tiny_model


def test_only_the_very_same_objects_are_remembered() -> None:
    asked = []
    sums = IdentityMemo(lambda *given: asked.append(given) or sum(given[1:], given[0]))
    x, y = torch.ones(3), torch.ones(3)
    for given, want in (((x, y), 2), ((x, y), 2), ((y, x), 2), ((x,), 1), ((x, y), 2)):
        assert sums(*given).tolist() == [want] * 3
    assert len(asked) == 4


def test_who_takes_a_row_brings_holes_and_ends_of_its_own() -> None:
    """What is remembered of the rows' facts is found anew when a row is given to another request."""
    m = tiny_model("bidirectional")
    strategy = Strategy(Threshold(0.5), Blocks(8), DualCache())
    whole = Request((3, 7, 1), 6, stop_ids=())
    every = tuple(token for token in range(m.vocabulary) if token not in (m.mask_id, 4))
    holes = Request((3, 0, 0, 1, 7), 6, holes=(1, 2), stop_ids=every)
    alone = list(steps(m, [holes], strategy))[-1].canvas
    taken = list(steps(m, [whole, holes], strategy, batch_size=1))[-1].canvas
    assert taken.tokens[0, 1:3].tolist() == alone.tokens[0, 1:3].tolist() == [4, 4]
