"""What a step costs: the host waits for the device once, and no column is run that cannot matter."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from dllm import (
    WINO,
    Blocks,
    DualCache,
    Factor,
    NoCache,
    PrefixCache,
    Request,
    Sampling,
    Strategy,
    Threshold,
    TopK,
    steps,
)
from tests.tiny import STOP, tiny_model

REQUESTS = [
    Request((3, 7, 1, 22, 9), 20, stop_ids=(STOP,), seed=1),
    Request((5, 2, 8, 8, 8, 1), 14, stop_ids=(STOP,), seed=2),
]
READS = ("item", "_local_scalar_dense", "is_nonzero", "nonzero", "equal", "masked_select")


class Device(TorchDispatchMode):
    """Follows all that comes from the model, as if it lay on a device of its own.

    copies  how often such a tensor was copied to the host
    reads   how often the host asked what one holds
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.there: Any = WeakIdKeyDictionary()
        self.copies, self.reads = 0, Counter()
        for name in ("cpu", "tolist"):
            patch.setattr(Tensor, name, self.copying(getattr(Tensor, name)))

    def copying(self, original: Any) -> Any:
        def copy(x: Tensor, *args: Any) -> Any:
            if x not in self.there:
                return original(x, *args)
            self.copies += 1
            host = x.clone()
            self.there.pop(host, None)
            return original(host, *args)

        return copy

    def mark(self, x: Tensor) -> Tensor:
        self.there[x] = True
        return x

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = [x for some in args for x in (some if isinstance(some, (list, tuple)) else (some,))]
        marked = any(isinstance(x, Tensor) and x in self.there for x in given)
        name = func.overloadpacket.__name__
        if marked and name in READS:
            self.reads[name] += 1
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, (tuple, list)) else (out,):
            if marked and isinstance(x, Tensor):
                self.mark(x)
        return out


@pytest.mark.parametrize("geometry", ["bidirectional", "block-causal-shift"])
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
@pytest.mark.parametrize(
    ("policy", "how"),
    [
        (Threshold(0.6), Sampling()),
        (Factor(1.0), Sampling()),
        (TopK(k=2), Sampling(temperature=0.7)),
        (WINO(0.4, 0.6), Sampling()),
    ],
    ids=str,
)
def test_the_host_waits_once_a_step(geometry, cache, policy, how) -> None:
    """The copy of what is pending; that numbers are numbers is read when the device has just been waited for."""
    m = replace(tiny_model(geometry))
    with pytest.MonkeyPatch.context() as patch:
        device = Device(patch)
        forward = m.forward
        m.forward = lambda query, store: device.mark(forward(query, store))
        with device:
            taken = sum(1 for _ in steps(m, REQUESTS, Strategy(policy, Blocks(8), cache, how)))
    held = hasattr(policy, "bound")  # rows that a policy which edits holds are copied with what is pending
    assert taken > 3 and device.copies == taken * (1 + held)
    assert device.reads == {"item": taken}


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
        m = replace(tiny_model(geometry), apart=2**31)
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
