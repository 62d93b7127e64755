"""Timing of a strategy: whole runs for tokens per second, and single steps for windows and refreshes."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from dllm.bench.floor import HardwareRates, count_forward_work, synchronize_device
from dllm.engine.loop import steps
from dllm.requests import Request
from dllm.strategy import Strategy
from dllm.types import Step


@dataclass(frozen=True)
class StrategyTiming:
    """Measurements of one strategy on one model.

    Times are medians in seconds. A floor is the time that the same forwards would take at the measured rates.

    Attributes:
        tokens_per_second: New tokens of all rows over the time of a whole run, prompts included.
        tokens_per_forward: New tokens over forwards, all rows together.
        nfe: Forwards of a row, mean of the rows.
        seconds: Time of a whole run.
        window: Time of a step that runs its window alone (0 where there was none).
        window_floor: Floor of such a step.
        refresh: Time of a step that runs more than its window (0 where there was none).
        refresh_floor: Floor of such a step.
        floor: Floor of the whole run.
        outside: Share of a whole run that is not spent in the model.
        memory: Bytes, as `peak_memory` returns them after the whole runs.
    """

    tokens_per_second: float
    tokens_per_forward: float
    nfe: float
    seconds: float
    window: float
    window_floor: float
    refresh: float
    refresh_floor: float
    floor: float
    outside: float
    memory: int

    def row(self) -> dict[str, float]:
        """Return the fields as a dictionary."""
        return asdict(self)


class ForwardTimer:
    """Context in which the time of a model's forwards and heads is added up, waiting for the device each time.

    Args:
        model: Model whose `forward` and `head` are replaced inside the context.

    Attributes:
        inside: Seconds spent in the model so far.
    """

    def __init__(self, model: Any) -> None:
        self.model, self.device, self.inside = model, model.device, 0.0
        # Decided once, since the time that the timer itself takes counts as time outside the model.
        self.waits = self.device.type == "cuda"
        self.originals = model.forward, model.head

    def __enter__(self) -> ForwardTimer:
        forward, head = self.originals
        self.model.forward, self.model.head = self.timed(forward), self.timed(head)
        return self

    def __exit__(self, *_: object) -> None:
        del self.model.forward, self.model.head  # the instance's attributes, which hid the methods of its class

    def timed(self, run: Any) -> Any:
        """Wrap a function so that the time it takes is added to `inside`."""

        def timed(*args: Any) -> Any:
            if self.waits:
                synchronize_device(self.device)
            start = time.perf_counter()
            out = run(*args)
            if self.waits:
                synchronize_device(self.device)
            self.inside += time.perf_counter() - start
            return out

        return timed


def time_strategy(
    model: Any,
    requests: Sequence[Request],
    strategy: Strategy,
    rates: HardwareRates,
    repeats: int = 5,
    batch_size: int | None = None,
) -> StrategyTiming:
    """Time a strategy on a model: `repeats` whole runs, then one run step by step, after a run to warm up.

    Args:
        model: Model to decode with.
        requests: Requests of a run.
        strategy: Strategy to time.
        rates: Rates of the machine, for the floors.
        repeats: Number of whole runs, of which the median counts.
        batch_size: Rows run together; None: all.
    """
    device = model.device
    stream = list(steps(model, requests, strategy, batch_size=batch_size))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    whole = statistics.median(time_whole_run(model, requests, strategy, batch_size) for _ in range(repeats))
    memory = peak_memory(device)
    with ForwardTimer(model) as clock:
        total = time_whole_run(model, requests, strategy, batch_size)
    parts = _time_each_step(model, requests, strategy, batch_size)
    ideal = [count_forward_work(model, step).seconds(rates) for step in stream]
    narrow = [_ran_window_only(step) for step in stream]
    counts = torch.stack([step.queries > 0 for step in stream]).sum()
    tokens = sum(r.max_new_tokens for r in requests)

    def median_of_steps(values: Sequence[float], window_only: bool) -> float:
        return statistics.median([v for v, n in zip(values, narrow, strict=True) if n == window_only] or [0.0])

    return StrategyTiming(
        tokens_per_second=tokens / whole,
        tokens_per_forward=tokens / float(counts),
        nfe=float(counts) / len(requests),
        seconds=whole,
        window=median_of_steps(parts, True),
        window_floor=median_of_steps(ideal, True),
        refresh=median_of_steps(parts, False),
        refresh_floor=median_of_steps(ideal, False),
        floor=sum(ideal),
        outside=1 - clock.inside / total,
        memory=memory,
    )


def peak_memory(device: torch.device) -> int:
    """Return the most memory that was in use, in bytes.

    On an accelerator this is the most since its statistics were reset. On a CPU it is the most that the process ever
    had, including everything that it loaded before.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    import resource  # not on every system

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def time_whole_run(model: Any, requests: Sequence[Request], strategy: Strategy, batch_size: int | None) -> float:
    """Return the seconds of a whole run."""
    synchronize_device(model.device)
    start = time.perf_counter()
    for _ in steps(model, requests, strategy, batch_size=batch_size):
        pass
    synchronize_device(model.device)
    return time.perf_counter() - start


def _time_each_step(model: Any, requests: Sequence[Request], strategy: Strategy, batch_size: int | None) -> list[float]:
    """Return the seconds of each step, waiting for the device after each."""
    seconds, last = [], time.perf_counter()
    for _ in steps(model, requests, strategy, batch_size=batch_size):
        synchronize_device(model.device)
        now = time.perf_counter()
        seconds.append(now - last)
        last = now
    return seconds


def _ran_window_only(step: Step) -> bool:
    """Return True if a step ran no more than its window (and the column left of it)."""
    return bool((step.queries <= step.window.end - step.window.start + 1).all())


def time_autoregressive(
    network: Any, prompts: torch.Tensor, new: int, repeats: int = 3, compiled: bool = False
) -> float:
    """Return the tokens per second of greedy autoregressive decoding by `transformers` on the same weights.

    Args:
        network: Stock network.
        prompts: (b, t) int64, prompts of equal length.
        new: New tokens of each row.
        repeats: Number of runs, of which the median counts.
        compiled: Use a static cache and the compiled forward that `generate` makes of it.
    """
    config = network.config
    causal = config.is_causal
    config.is_causal = True
    options: dict[str, Any] = {"cache_implementation": "static"} if compiled else {}
    try:

        def once() -> float:
            synchronize_device(prompts.device)
            start = time.perf_counter()
            network.generate(
                prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=new, min_new_tokens=new,
                do_sample=False, pad_token_id=0, **options,
            )  # fmt: skip
            synchronize_device(prompts.device)
            return time.perf_counter() - start

        once()
        return prompts.shape[0] * new / statistics.median(once() for _ in range(repeats))
    finally:
        config.is_causal = causal
