"""The pretended device: every fault that is planted is found, and what is no fault is left alone."""

from __future__ import annotations

import importlib
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import dllm
from dllm import Blocks, DualCache, Request, Strategy, Threshold
from dllm.engine import batch
from dllm.models.kv_store import KeyValueStore
from dllm.testing.device import PretendedDevice, PretendedDeviceError, step_costs
from tests.tiny import tiny_model


@pytest.fixture(params=[True, False], ids=["inference", "ordinary"])
def device(request: pytest.FixtureRequest) -> Iterator[PretendedDevice]:
    with PretendedDevice() as made, torch.inference_mode(request.param):
        yield made


def there(*shape: int) -> Tensor:
    return torch.arange(float(torch.tensor(shape).prod()), device="cuda").reshape(shape)


MIXES: dict[str, Callable[[], Any]] = {
    "add": lambda: there(2, 3) + torch.ones(2, 3),
    "into the CPU": lambda: torch.ones(3).add_(there(3)),
    "where": lambda: torch.where(torch.ones(3) > 0, there(3), 0),
    "gather": lambda: there(2, 3).gather(1, torch.zeros(2, 1, dtype=torch.long)),
    "cat": lambda: torch.cat([there(3), torch.ones(3)]),
    "index a CPU tensor": lambda: torch.ones(3)[torch.tensor([1], device="cuda")],
    "write CPU values": lambda: there(3).index_put_((torch.tensor([0, 1], device="cuda"),), torch.ones(2)),
    "linear": lambda: torch.nn.Linear(3, 2)(there(2, 3)),
    "embedding": lambda: torch.nn.Embedding(9, 2).to("cuda")(torch.tensor([1])),
    "attention mask": lambda: torch.nn.functional.scaled_dot_product_attention(
        there(1, 1, 4, 8), there(1, 1, 4, 8), there(1, 1, 4, 8), attn_mask=torch.ones(4, 4, dtype=torch.bool)
    ),
    "scatter": lambda: there(3).scatter(0, torch.tensor([0]), there(1)),
}


@pytest.mark.parametrize("name", MIXES)
def test_tensors_of_two_devices_do_not_mix(device: PretendedDevice, name: str) -> None:
    with pytest.raises(RuntimeError, match=r"same device|indices should be"):
        MIXES[name]()


def test_what_cuda_refuses_is_refused(device: PretendedDevice) -> None:
    with pytest.raises(NotImplementedError):
        there(2, 2).long() @ there(2, 2).long()
    with pytest.raises(TypeError, match="numpy"):
        there(3).numpy()
    with pytest.raises(RuntimeError, match="generator"):
        torch.rand(3, generator=torch.Generator(), device="cuda")
    with pytest.raises(RuntimeError, match="generator"):
        torch.randperm(3, generator=torch.Generator("cuda"))


def test_what_cuda_allows_is_allowed(device: PretendedDevice) -> None:
    assert (there(3) + torch.tensor(1.0)).tolist() == [1, 2, 3]
    one, other = torch.Generator("cuda").manual_seed(1), torch.Generator().manual_seed(1)
    assert torch.rand(3, generator=one, device="cuda").tolist() == torch.rand(3, generator=other).tolist()


WAITS: dict[str, tuple[int, int, Callable[[Tensor], Any]]] = {
    "item": (1, 0, lambda x: x.sum().item()),
    "bool": (1, 0, lambda x: bool((x > 0).all())),
    "tolist": (1, 0, lambda x: x.tolist()),
    "cpu": (1, 0, lambda x: x.cpu()),
    "boolean index": (1, 0, lambda x: x[x > 1]),
    "boolean index, written with a tensor": (1, 0, lambda x: x.__setitem__(x > 1, x[0])),
    "masked_select": (1, 0, lambda x: x.masked_select(x > 1)),
    "equal": (1, 0, lambda x: torch.equal(x, x)),
    "unique": (1, 0, lambda x: x.unique()),
    "repeat_interleave": (1, 0, lambda x: x.repeat_interleave(x.long())),
    "an event": (1, 0, lambda x: torch.cuda.Event().synchronize()),
    "a list": (1, 1, lambda x: torch.tensor([1, 2], device=x.device)),
    "to": (1, 1, lambda x: torch.ones(3).to(x.device)),
    "copy_": (1, 1, lambda x: x.copy_(torch.ones(3))),
    "an index on the CPU": (1, 1, lambda x: x[torch.tensor([1, 0])]),
    "a number on the CPU in where": (1, 1, lambda x: torch.where(x > 0, x, torch.tensor(7.0))),
    "nothing": (0, 0, lambda x: (x + 1).sum()),
    "a copy that does not block": (0, 0, lambda x: torch.ones(3).to(x.device, non_blocking=True)),
    "numbers in where": (0, 0, lambda x: torch.where(x > 0, x, 7.0)),
    "boolean index, written with a number": (0, 0, lambda x: x.__setitem__(x > 1, 7.0)),
    "factories": (0, 0, lambda x: torch.arange(3, device=x.device) + torch.full((3,), 2, device="cuda")),
    "indices": (0, 0, lambda x: x[x.long()]),
    "the host's own": (0, 0, lambda x: bool(torch.ones(3).nonzero().sum() > 0)),
}


@pytest.mark.parametrize("name", WAITS)
def test_waits_and_blocking_copies_are_counted(device: PretendedDevice, name: str) -> None:
    waits, blocking, work = WAITS[name]
    x = there(3)
    device.clear()
    work(x)
    found = [device.record.count(kind, outside=True) for kind in ("wait", "blocking")]
    assert found == [waits, blocking], device.record.table()


def test_only_a_wait_with_work_before_it_is_a_stall(device: PretendedDevice) -> None:
    x = there(3) + 1
    device.clear()
    x.cpu(), x.cpu(), (x + 1).cpu(), x.cpu()
    assert [device.record.count(kind, outside=True) for kind in ("wait", "stall")] == [4, 1]


def test_copies_that_do_not_block_are_told_apart(device: PretendedDevice) -> None:
    device.clear()
    torch.ones(3).to("cuda", non_blocking=True)
    torch.ones(3).pin_memory().to("cuda", non_blocking=True)
    torch.empty(3, pin_memory=True).to("cuda", non_blocking=True)
    assert [device.record.count(kind, outside=True) for kind in ("h2d", "pinned", "wait")] == [1, 2, 0]


def test_views_and_allocations_are_no_kernels(device: PretendedDevice) -> None:
    x = there(2, 3)
    device.clear()
    x.view(3, 2), x[:1], x.t(), x.expand(4, 2, 3), torch.empty(3, device="cuda"), x.unsqueeze(0), x.to("cuda")
    assert device.record.count("launch", outside=True) == 0
    x.t().contiguous(), x + 1, torch.zeros(3, device="cuda"), x.to(torch.bfloat16)
    assert device.record.count("launch", outside=True) == 4


def test_what_works_by_luck_does_not_work(device: PretendedDevice) -> None:
    assert torch.empty(2, device="cuda").isnan().all()
    value = there(3).to("cpu", non_blocking=True)
    assert value.isnan().all(), "read too early"
    torch.cuda.synchronize()
    assert value.tolist() == [0, 1, 2]
    kept = torch.ones(3).pin_memory()
    kept.to("cuda", non_blocking=True)
    kept.add_(1)
    with pytest.raises(RuntimeError, match="overwritten"):
        torch.cuda.synchronize()


def test_of_repeated_indices_the_first_wins(device: PretendedDevice) -> None:
    index, values = torch.tensor([0, 0], device="cuda"), torch.tensor([1.0, 2.0], device="cuda")
    device.clear()
    assert torch.zeros(2, device="cuda").scatter_(0, index, values).tolist() == [1, 0], "the CPU says 2"
    torch.zeros(2, device="cuda")[index] = values
    assert device.record.count("race", outside=True) == 2
    torch.zeros(2, device="cuda").scatter_(0, torch.tensor([0, 1], device="cuda"), values)
    assert device.record.count("race", outside=True) == 2


def test_threads_and_modules_see_the_device(device: PretendedDevice) -> None:
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(torch.tensor([1], device="cuda") + 1))
    thread.start()
    thread.join()
    assert found[0].tolist() == [2]
    layer = torch.nn.Linear(3, 2)
    moved, x = device.put(layer), torch.ones(1, 3)
    assert isinstance(moved.weight, torch.nn.Parameter) and moved.weight.is_cuda and not layer.weight.is_cuda
    assert torch.allclose(moved(x.to("cuda")).cpu(), layer(x))


SOURCE = """
import torch

def fine(x):
    return (x + 1).sum()

def early(x, n):
    torch.ones(2).to(x.device)
    return x[:n].sum()
"""


def test_lines_are_named_and_steps_compared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "watched").mkdir()
    (tmp_path / "watched" / "lines.py").write_text(SOURCE)
    monkeypatch.syspath_prepend(str(tmp_path / "watched"))
    lines = importlib.import_module("lines")
    with PretendedDevice(watch=("watched",)) as device:
        x = there(4)
        device.clear()
        for work in (lines.fine, lines.fine, lambda x: lines.early(x, 2), lambda x: lines.fine(x[:2])):
            work(x)
            device.record.next_step()
        record = device.record
        assert record.sites("wait") == {("watched/lines.py:8 early", "aten::_to_copy to the device"): 1}
        assert record.difference(0, 1) is None
        assert "lines.py:8" in str(record.difference(0, 2)) and "(4,)" in str(record.difference(0, 3))
    sys.modules.pop("lines")


def test_everything_is_as_before() -> None:
    names = (torch, "tensor"), (torch.Tensor, "to"), (torch.cuda, "is_available"), (torch, "compile"), (torch, "rand")
    before = [getattr(owner, name) for owner, name in names]
    with PretendedDevice():
        x = there(3)
        with pytest.raises(PretendedDeviceError, match="already"), PretendedDevice():
            pass
    assert before == [getattr(owner, name) for owner, name in names]
    assert not torch.cuda.is_available() and torch.tensor([1]).device.type == "cpu"
    with pytest.raises(PretendedDeviceError):
        x + 1


REQUESTS = [Request((3, 7, 1, 22, 9), 13, seed=1), Request((5, 2, 8), 8, seed=2)]
STRATEGY = Strategy(Threshold(0.6), Blocks(8), DualCache())


def test_a_run_is_the_same_there() -> None:
    m = tiny_model("bidirectional")
    wanted = [step.canvas.tokens.tolist() for step in dllm.steps(m, REQUESTS, STRATEGY)]
    with PretendedDevice() as device:
        found = [step.canvas.tokens.tolist() for step in dllm.steps(device.put(m), REQUESTS, STRATEGY)]
    assert found == wanted


def test_a_host_tensor_in_a_policy_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def step(policy: Any, guess: Any, window: Any, state: Any) -> Any:
        level = torch.full(guess.confidence.shape, policy.tau)  # no device=
        return SimpleNamespace(accept=guess.confidence >= level, score=guess.confidence, rest=None), state

    monkeypatch.setattr(Threshold, "step", step)
    with pytest.raises(RuntimeError, match="same device"):
        step_costs(tiny_model("bidirectional"), REQUESTS, STRATEGY)


def test_a_stall_is_told_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:

    enter = batch.record_commits
    monkeypatch.setattr(batch, "record_commits", lambda *args: enter(*args) if args[2].p1.sum() > 0 else None)
    costs = step_costs(tiny_model("bidirectional"), REQUESTS, STRATEGY, watch=("dllm", "tests"))
    stalls = costs[2].stalls
    assert stalls.total() == 2 and any("test_device.py" in line for line in stalls), stalls
    assert costs[2].decoder_kernels > costs[2].kernels / 2 > 20


def test_memory_that_nobody_wrote_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def update(store: Any, key: Tensor, value: Tensor, index: int, *_: Any, **__: Any) -> Any:
        while len(store.layers) <= index:
            shape = (len(key), key.shape[1], store.columns + 1, key.shape[-1])
            store.layers.append((key.new_empty(shape), value.new_empty(shape)))
        pairs = zip(store.layers[index], (key, value), strict=True)
        return tuple(store._read(kept, new)[..., :-1, :] + kept[:, :, -1:] for kept, new in pairs)

    monkeypatch.setattr(KeyValueStore, "update", update)
    with pytest.raises((dllm.NumericsError, RuntimeError)):
        step_costs(tiny_model("bidirectional"), REQUESTS, STRATEGY)
