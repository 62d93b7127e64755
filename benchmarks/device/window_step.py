"""A window step of LLaDA-8B against reading its weights once: one row, a prompt of 512, bfloat16, random weights.

Question: how far is a window step from the time in which the device reads the weights; what do compiling and cuDNN's
          attention change; and how fast is the published loop on the same weights?
Method:   weights made on the device, nothing to carry. `SeededQuota` fixes 3.5 tokens a forward, so that every way does
          the same number of forwards, and the published loop takes as many tokens at each of them as ours. The copy
          bandwidth under the floor is measured first, in the same process. Medians of `repeats` runs, warmed up.
Read:     `window` is a step that runs its window alone, waiting for the device after each, `window_floor` the same
          forward at the measured rates, `forward` a whole decode over its forwards, refreshes included. `new_shape` is
          what a prompt of a length not seen before costs beyond its decode, for each (uncompiled).
Run:      benchmarks/device/window_step.sh            (CUDA; at most --budget seconds; see README.md)
          benchmarks/device/window_step.sh --tiny --device cpu
"""

from __future__ import annotations

import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from benchmarks.device.budget import Budget
from benchmarks.device.options import checked, device, parser
from benchmarks.device.session import Measurement, Row, facts, failures, leave, run

SHAPE = "llada-8b"
TINY: dict[str, Any] = {
    "hidden": 64,
    "inner": 96,
    "layers": 2,
    "heads": 2,
    "kv_heads": 2,
    "head_width": 32,
    "vocabulary": 512,
}
BLOCK = 32
FRESH_LENGTHS = (37, 71, 90, 123, 150, 187, 211, 245)
"""Prompts that no other measurement has, for the cost of a new shape."""


@dataclass
class Bench:
    """The model and the work, made when they are first asked for.

    Attributes:
        place: The torch device.
        tiny: A rehearsal's shape instead of LLaDA-8B's.
        context: Tokens of the prompt.
        new: Tokens to write.
        repeats: Counted runs of each way.
        published: Seconds that the published loop took, by whether cuDNN's attention was on.
    """

    place: Any
    tiny: bool
    context: int
    new: int
    repeats: int
    published: dict[bool, float] = field(default_factory=dict)

    @cached_property
    def model(self) -> Any:
        import torch

        from dllm.bench import SHAPES, make_random_model

        shape = replace(SHAPES[SHAPE], **TINY) if self.tiny else SHAPES[SHAPE]
        return make_random_model(shape, self.place, torch.bfloat16)

    @cached_property
    def rates(self) -> Any:
        import torch

        from dllm.bench import measure_rates

        return measure_rates(self.place, torch.bfloat16)

    @cached_property
    def ids(self) -> Any:
        """The prompt (1, context)."""
        import torch

        return torch.randint(self.model.vocabulary - 1, (1, self.context), generator=torch.Generator().manual_seed(1))

    @cached_property
    def strategy(self) -> Any:
        from benchmarks.device.quota import SeededQuota
        from dllm import Blocks, DualCache, Stopping, Strategy

        return Strategy(SeededQuota(size=BLOCK), Blocks(BLOCK), DualCache(), stopping=Stopping(()))

    def requests(self, prompt: list[int] | None = None, new: int | None = None) -> list[Any]:
        from dllm import Request

        return [Request(tuple(prompt or self.ids[0].tolist()), new or self.new)]

    def make_model(self, budget: Budget) -> Iterator[Row]:
        """Weights on the device, and how long that took."""
        begun = time.monotonic()
        weights = sum(p.numel() * p.element_size() for p in self.model.network.parameters())
        _wait(self.place)
        yield {"what": "random weights", "seconds": time.monotonic() - begun, "bytes": weights}

    def measure_rates(self, budget: Budget) -> Iterator[Row]:
        """Measure the rates on which the floor rests."""
        weights = sum(p.numel() * p.element_size() for p in self.model.network.parameters())
        yield {
            "what": "rates", "bytes_per_second": self.rates.bytes, "operations_per_second": self.rates.operations,
            "read_weights_once": weights / self.rates.bytes,
        }  # fmt: skip

    def published_loop(self, cudnn: bool) -> Iterator[Row]:
        """The published loop, which takes as many tokens at each forward as our policy."""
        from benchmarks.baselines.fast_dllm_v1 import decode_as_published

        ids, policy, forwards = self.ids.to(self.place), self.strategy.policy, 0

        def once() -> None:
            nonlocal forwards
            quotas = chain.from_iterable(policy.slot_quotas())
            _, forwards = decode_as_published(
                self.model.network, ids, self.new, BLOCK, self.model.mask_id, "dual", quotas=quotas
            )

        with cudnn_attention(cudnn):
            once()
            seconds = statistics.median(_seconds(once, self.place) for _ in range(self.repeats))
        self.published[cudnn] = seconds
        yield {
            "what": "published loop", "cudnn": cudnn, "tokens_per_second": self.new / seconds,
            "tokens_per_forward": self.new / forwards, "nfe": forwards, "seconds": seconds,
            "forward": seconds / forwards,
        }  # fmt: skip

    def ours(self, cudnn: bool, compiled: bool) -> Iterator[Row]:
        """Our loop, whole and step by step, beside the floor of each forward."""
        import torch

        from dllm.bench import time_strategy
        from dllm.models.compiled import CompiledModel

        if compiled:
            torch._dynamo.reset()  # graphs compiled with the other kind of attention, and their memory
        model = CompiledModel.of(self.model) if compiled else self.model
        with cudnn_attention(cudnn):
            begun = time.monotonic()
            _decode(model, self.requests(), self.strategy)
            first = time.monotonic() - begun
            timing = time_strategy(model, self.requests(), self.strategy, self.rates, self.repeats)
        row = {
            "what": "ours, compiled" if compiled else "ours", "cudnn": cudnn, **timing.row(), "first_decode": first,
            "forward": timing.seconds / timing.nfe, "times_the_floor": timing.window / timing.window_floor,
            "strategy": repr(self.strategy),
        }  # fmt: skip
        if cudnn in self.published:
            row["speedup"] = self.published[cudnn] / timing.seconds
        yield row

    def new_shapes(self, cudnn: bool) -> Iterator[Row]:
        """Prompts of lengths not seen before, each decoded twice."""
        with cudnn_attention(cudnn):
            for length in FRESH_LENGTHS[: 2 if self.tiny else None]:
                requests = self.requests(self.ids[0, :1].tolist() * (length + cudnn), BLOCK)  # no length twice

                def once(requests: list[Any] = requests) -> None:
                    _decode(self.model, requests, self.strategy)

                first, second = _seconds(once, self.place), _seconds(once, self.place)
                yield {
                    "what": "new shape", "cudnn": cudnn, "prompt": length + cudnn, "first": first, "second": second,
                    "new_shape": first - second,
                }  # fmt: skip

    def waits(self) -> Iterator[Row]:
        """Count how often a step waits for the device, as torch does it (on CUDA only)."""
        import torch

        import dllm

        if self.place.type != "cuda":
            yield {"what": "waits", "waits_per_step": None}
            return
        _decode(self.model, self.requests(), self.strategy)
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                count = sum(1 for _ in dllm.steps(self.model, self.requests(), self.strategy))
            finally:
                torch.cuda.set_sync_debug_mode("default")
        places = [f"{Path(w.filename).name}:{w.lineno}" for w in found if "synchroniz" in str(w.message)]
        counts = {place: places.count(place) for place in sorted(set(places))}
        yield {"what": "waits", "waits_per_step": len(places) / count, "steps": count, "where": counts}


def measurements(bench: Bench, compile: bool) -> list[Measurement]:
    """List the measurements, the most wanted first. Seconds are guesses for an H200, on the long side."""
    tiny = bench.tiny
    slow = 10.0 if tiny else 100.0
    found = [
        Measurement("model", 1 if tiny else 30, bench.make_model),
        Measurement("rates", 1 if tiny else 5, bench.measure_rates),
        Measurement("published loop", 1 if tiny else 10, lambda _: bench.published_loop(False)),
        Measurement("ours", 1 if tiny else 10, lambda _: bench.ours(False, False)),
        Measurement("waits", 1 if tiny else 3, lambda _: bench.waits()),
        Measurement("ours, compiled", slow, lambda _: bench.ours(False, True)),
        Measurement("new shapes", 1 if tiny else 8, lambda _: bench.new_shapes(False)),
        Measurement("published loop, cuDNN", 1 if tiny else 15, lambda _: bench.published_loop(True)),
        Measurement("ours, cuDNN", 1 if tiny else 15, lambda _: bench.ours(True, False)),
        Measurement("new shapes, cuDNN", 1 if tiny else 15, lambda _: bench.new_shapes(True)),
        Measurement("ours, compiled, cuDNN", slow, lambda _: bench.ours(True, True), like="ours, compiled"),
    ]
    return [one for one in found if compile or "compiled" not in one.name]


@contextmanager
def cudnn_attention(on: bool) -> Iterator[None]:
    """Attention with or without cuDNN's kernels; nothing on a machine without CUDA."""
    import torch

    before = torch.backends.cuda.cudnn_sdp_enabled()
    torch.backends.cuda.enable_cudnn_sdp(on)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


def _decode(model: Any, requests: list[Any], strategy: Any) -> None:
    import dllm

    for _ in dllm.steps(model, requests, strategy):
        pass
    _wait(model.device)


def _seconds(work: Callable[[], Any], place: Any) -> float:
    _wait(place)
    begun = time.perf_counter()
    work()
    _wait(place)
    return time.perf_counter() - begun


def _wait(place: Any) -> None:
    """Until the device has done all that it was told."""
    import torch

    if place.type == "cuda":
        torch.cuda.synchronize(place)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what fits into the budget; results go into a file of JSON lines, progress to stderr."""
    made = parser("window_step", budget=300)
    made.add_argument("--context", type=int, default=None, help="tokens of the prompt (512; tiny: 64)")
    made.add_argument("--new", type=int, default=None, help="tokens to write (256; tiny: 64)")
    made.add_argument("--repeats", type=int, default=None, help="counted runs (5; tiny: 1)")
    options = checked(made, arguments)
    tiny = options.tiny
    bench = Bench(
        device(options), tiny, options.context or (64 if tiny else 512),
        options.new or (64 if tiny else 256), options.repeats or (1 if tiny else 5),
    )  # fmt: skip
    about = facts(
        "window_step", bench.place, shape=f"{SHAPE}, tiny" if tiny else SHAPE, tiny=tiny, dtype="bfloat16", rows=1,
        context=bench.context, new_tokens=bench.new, repeats=bench.repeats, seed=0,
    )  # fmt: skip
    outcomes = run(about, measurements(bench, options.compile), Budget(options.budget), options.output)
    leave(failures(outcomes))


if __name__ == "__main__":
    main()
