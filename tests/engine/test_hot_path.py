"""What a step costs: the host waits for the device once, and no column is run that cannot matter."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from dllm import Blocks, DualCache, NoCache, PrefixCache, Request, Strategy, Threshold, TopK, steps
from dllm.likelihood import Bound, PromptContinuation, estimate_likelihoods
from dllm.requests import Layout
from dllm.testing.device import PretendedDevice
from dllm.transfer import to_device
from tests.step_costs import CASES, run
from tests.tiny import tiny_model


@pytest.mark.parametrize("b", [8, 1])
@pytest.mark.parametrize("name", CASES)
def test_the_host_waits_no_more_than_it_must(name: str, b: int) -> None:
    """One stall a step where nothing else is said in `tests.step_costs`, and never one for a copy to the device."""
    case = CASES[name]
    costs = run(case, b)
    assert len(costs) > 2, "too few steps to say anything"
    for cost in costs[1:]:
        assert cost.stalls.total() <= case.stalls, cost.stalls
    for cost in costs:
        assert not cost.blocking, cost.blocking
    if case.stalls > 1 and b > 1:
        assert max(cost.stalls.total() for cost in costs[1:]) == case.stalls, "the budget is too large"


def test_a_refill_lays_out_the_new_rows_only(monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[Any] = []
    put = Layout.put
    monkeypatch.setattr(Layout, "put", lambda self, row, request: written.append(request) or put(self, row, request))
    requests = [Request((3, 7, i), 6 + i, seed=i, stop_ids=()) for i in range(7)]
    strategy = Strategy(Threshold(0.6), Blocks(8), DualCache())
    list(steps(tiny_model("bidirectional"), requests, strategy, batch_size=3))
    assert written == requests


def test_scores_of_given_texts_need_no_blocking_copy() -> None:
    pairs = [PromptContinuation((1, 2, 3), (4, 5)), PromptContinuation((6,), (7, 8, 9))]
    m = tiny_model("bidirectional")
    wanted = [x.value for _, x in estimate_likelihoods(m, pairs, Bound(2))]
    with PretendedDevice() as device:
        there = device.put(m)
        device.clear()
        found = [x.value for _, x in estimate_likelihoods(there, pairs, Bound(2))]
        assert device.record.count("blocking") == 0, device.record.table("blocking")
    assert found == pytest.approx(wanted)


def test_small_tensors_travel_from_pinned_memory() -> None:
    values = torch.arange(3)
    assert to_device(values, torch.device("cpu")) is values
    with PretendedDevice() as device:
        there = to_device(values, torch.device("cuda"))
        values.add_(1)  # a caller may go on with what it has
        assert [device.record.count(kind, outside=True) for kind in ("pinned", "h2d", "wait")] == [1, 0, 0]
        assert there.tolist() == [0, 1, 2]
        assert to_device(there, there.device) is there


class Count(TorchDispatchMode):
    """Counts the operations outside a model."""

    def __init__(self, m: Any) -> None:
        super().__init__()
        self.count, self.inside = 0, False
        m.forward, m.head = self.left_out(m.forward), self.left_out(m.head)

    def left_out(self, run: Any) -> Any:
        def quiet(*args: Any) -> Any:
            self.inside = True
            out = run(*args)
            self.inside = False
            return out

        return quiet

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not self.inside
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("geometry", ["bidirectional", "block-causal-shift"])
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
@pytest.mark.parametrize(("stops", "most"), [((), 105), ((30, 29), 115)])
def test_a_step_takes_few_operations_however_many_rows_there_are(geometry, cache, stops, most) -> None:
    """Steps in which every row stays in its block; each operation is launched one by one on an accelerator."""
    found = []
    for b in (2, 5):
        m = replace(tiny_model(geometry), forward_overhead_columns=2**31)
        counter, counts = Count(m), []
        requests = [Request((3, 7, 1, 22, 9, i, i, i), 8, seed=i, stop_ids=stops) for i in range(b)]
        with counter:
            for _ in steps(m, requests, Strategy(Threshold(2.0), Blocks(8), cache)):
                counts.append(counter.count)
        taken = sorted(after - before for before, after in pairwise(counts))
        assert len(taken) == 7
        found.append(taken[3])
    assert found[0] == found[1] <= most


@pytest.mark.parametrize("cache", [PrefixCache(), DualCache()], ids=str)
def test_a_token_costs_as_much_in_a_long_text(cache) -> None:
    """Block-causal: no more columns are run than a block has and what is stored for it, nor keys read beyond it."""
    ran, keys = {}, {}
    for new in (24, 96):
        m = replace(tiny_model("block-causal-shift"))
        asked, forward = [], m.forward

        def note(query, store, asked=asked, forward=forward):
            asked.append(query)
            return forward(query, store)

        m.forward = note
        list(steps(m, [Request((3, 7, 1, 22, 9), new, stop_ids=())], Strategy(TopK(k=1), Blocks(8), cache)))
        ran[new] = [query.tokens.shape[1] for query in asked]
        keys[new] = [query.width for query in asked]
    assert max(ran[96]) <= 2 * 8 + 1 and len(ran[24]) > 20
    assert (ran[24], keys[24]) == (ran[96][: len(ran[24])], keys[96][: len(keys[24])])
