"""Decoding beside the limit of an accelerator, and the batch at which block diffusion stops winning.

Question: on one GPU with real shapes in bfloat16: (1) a window step of LLaDA-8B against reading its weights once, and a
          whole decode against the published loop; (2) Fast-dLLM v2 at three tokens a denoising forward, commits
          included, against autoregressive decoding by transformers, plain and compiled, over batch and sub-block sizes;
          (3) rows that do not wait against batches in lock-step on prompts and answers of mixed lengths, with rows that
          have much to run (a prompt) going through the model apart from the others, and always together.
Method:   random weights of the shape, so no download; nothing ends early. Everything that is compared runs in this
          process, one after the other, warmed up; medians of `repeats`. A threshold of 2 commits one token a step and
          `TopK(3)` three, so that the figures are about speed alone. The floor of a step is that of `dllm bench`.
Read:     "window x" is a window step over its floor; "speedup" is over the published loop, the faster autoregressive
          decoding, or lock-step. Tables on stderr, JSON lines on stdout.
Run:      python -m benchmarks.limits > limits.jsonl       (for an H100; it has not been run on one yet)
          python -m benchmarks.limits --whole small --blocks small-blocks --new 64 --repeats 1 --batch 1 --batch 2
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from enum import StrEnum
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table

import dllm
from benchmarks.baselines.fast_dllm_v1 import decode_as_published
from dllm import Blocks, DualCache, PrefixCache, Request, Stopping, Strategy, Threshold, TopK
from dllm.bench import SHAPES, make_random_model, measure_rates, time_autoregressive, time_strategy
from dllm.bench.floor import HardwareRates, synchronize_device
from dllm.bench.timing import time_whole_run
from dllm.models.compiled import CompiledModel
from dllm.types import Cache

NEVER = Stopping(())
NO_SAVING = 2**31
Row = dict[str, Any]


class LimitQuestion(StrEnum):
    """(1), (2) and (3)."""

    WHOLE = "whole"
    BLOCKS = "blocks"
    WAITING = "waiting"


def _time_whole_canvas(
    model: Any, rates: HardwareRates, context: int, new: int, repeats: int, compile: bool
) -> Iterator[Row]:
    """(1) Attention in both directions: the window step, and the published loop on the same weights."""
    ids = torch.randint(model.vocabulary - 1, (1, context), generator=torch.Generator().manual_seed(1))
    strategy = Strategy(Threshold(2.0), Blocks(32), DualCache(), stopping=NEVER)
    requests, network = [Request(tuple(ids[0].tolist()), new)], model.network
    there = ids.to(model.device)

    def published() -> None:
        decode_as_published(network, there, new, 32, model.mask_id, "dual", 2.0, None)

    published()
    theirs = statistics.median(_time_call(published, model.device) for _ in range(repeats))
    yield {"what": "published loop", "tokens_per_second": new / theirs}
    for name, candidate in _make_variants(model, compile):
        timing = time_strategy(candidate, requests, strategy, rates, repeats)
        yield {"what": f"ours, {name}", **timing.row(), "speedup": theirs / timing.seconds, "strategy": repr(strategy)}


def _time_block_diffusion(
    model: Any, rates: HardwareRates, context: int, new: int, repeats: int, batch: list[int], compile: bool
) -> Iterator[Row]:
    """(2) Block diffusion against autoregressive decoding on the same weights."""
    size = model.geometry.size
    for b in batch:
        ids = torch.randint(model.vocabulary - 1, (b, context), generator=torch.Generator().manual_seed(b))
        fastest = 0.0
        for compiled in (False, True) if compile else (False,):
            speed = time_autoregressive(model.network, ids.to(model.device), new, repeats, compiled)
            fastest = max(fastest, speed)
            name = "autoregressive, compiled" if compiled else "autoregressive"
            yield {"what": name, "batch": b, "tokens_per_second": speed}
        requests = [Request(tuple(row), new) for row in ids.tolist()]
        for sub in sorted({min(sub, size) for sub in (8, 16, 32)}):
            cache: Cache = PrefixCache() if sub == size else DualCache()
            strategy = Strategy(
                TopK(k=3), Blocks(size, sub_block=None if sub == size else sub, commit=True), cache, stopping=NEVER
            )
            for name, candidate in _make_variants(model, compile):
                timing = time_strategy(candidate, requests, strategy, rates, repeats)
                more = {"speedup": timing.tokens_per_second / fastest, "strategy": repr(strategy)}
                yield {"what": f"blocks of {size}, windows of {sub}, {name}", "batch": b, **timing.row(), **more}


def _time_queue(model: Any, new: int, repeats: int, rows: int, compile: bool) -> Iterator[Row]:
    """(3) A queue of four batches of mixed lengths: all rows of a batch wait for its last, or none does."""
    draw = torch.Generator().manual_seed(3)
    requests = []
    for _ in range(4 * rows):
        prompt, length = (int(torch.randint(new // 8, top, (1,), generator=draw)) for top in (2 * new, new + 1))
        ids = torch.randint(model.vocabulary - 1, (prompt,), generator=draw)
        requests.append(Request(tuple(ids.tolist()), length))
    tokens = sum(request.max_new_tokens for request in requests)
    strategy = Strategy(TopK(k=3), Blocks(model.geometry.size), PrefixCache(), stopping=NEVER)
    together = replace(model, forward_overhead_columns=NO_SAVING)
    for name, candidate in [("eager, rows always together", together), *_make_variants(model, compile)]:

        def lock_step(candidate: Any = candidate) -> float:
            batches = [requests[i : i + rows] for i in range(0, len(requests), rows)]
            return sum(time_whole_run(candidate, batch, strategy, None) for batch in batches)

        def flowing(candidate: Any = candidate) -> float:
            return time_whole_run(candidate, requests, strategy, rows)

        lock_step(), flowing()
        pairs = [(lock_step(), flowing()) for _ in range(repeats)]
        slow, fast = (statistics.median(column) for column in zip(*pairs, strict=True))
        speedup = statistics.median(a / b for a, b in pairs)
        yield {"what": f"lock-step, {name}", "batch": rows, "tokens_per_second": tokens / slow}
        yield {"what": f"no waiting, {name}", "batch": rows, "tokens_per_second": tokens / fast, "speedup": speedup}


def _make_variants(model: Any, compile: bool) -> list[tuple[str, Any]]:
    return [("eager", model), *([("compiled", CompiledModel.of(model))] if compile else [])]


def _time_call(work: Any, device: torch.device) -> float:
    synchronize_device(device)
    start = time.perf_counter()
    work()
    synchronize_device(device)
    return time.perf_counter() - start


def main(
    whole_shape: Annotated[str, typer.Option("--whole", help="Shape that attends in both directions.")] = "llada-8b",
    block_shape: Annotated[str, typer.Option("--blocks", help="Block-causal shape.")] = "fast-dllm-v2-7b",
    context: Annotated[int, typer.Option(help="Prompt tokens.")] = 512,
    new: Annotated[int, typer.Option(help="New tokens of a row.")] = 256,
    batch: Annotated[list[int] | None, typer.Option(help="Rows; give several.", show_default="1 8 32")] = None,
    repeats: Annotated[int, typer.Option(help="Counted runs of each.")] = 3,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cuda" if torch.cuda.is_available() else "cpu",
    compile: Annotated[bool, typer.Option(help="Compiled forwards beside the eager ones.")] = True,
    only: Annotated[
        list[LimitQuestion] | None, typer.Option(help="Ask only this; repeatable.", show_default="all")
    ] = None,
) -> None:
    """Measure all three; tables on stderr, JSON lines on stdout."""
    asked = only or list(LimitQuestion)
    place = torch.device(device)
    precision = torch.bfloat16 if place.type == "cuda" else torch.float32
    rates = measure_rates(place, precision)
    name = torch.cuda.get_device_name(place) if place.type == "cuda" else platform.processor() or platform.machine()
    about = {
        "device": name, "dtype": str(precision), "context": context, "new_tokens": new, "torch": torch.__version__,
        "dllm": dllm.__version__, "bytes_per_second": rates.bytes, "operations_per_second": rates.operations,
    }  # fmt: skip
    if LimitQuestion.WHOLE in asked:
        model = make_random_model(SHAPES[whole_shape], place, precision)
        _print_rows(whole_shape, _time_whole_canvas(model, rates, context, new, repeats, compile), about)
        del model
    if set(asked) == {LimitQuestion.WHOLE}:
        return
    model = make_random_model(SHAPES[block_shape], place, precision)
    if LimitQuestion.BLOCKS in asked:
        _print_rows(
            block_shape, _time_block_diffusion(model, rates, context, new, repeats, batch or [1, 8, 32], compile), about
        )
    if LimitQuestion.WAITING in asked:
        _print_rows(
            block_shape + ", mixed lengths", _time_queue(model, new, repeats, max(batch or [8]), compile), about
        )


def _print_rows(title: str, rows: Iterator[Row], about: Row) -> None:
    """JSON lines as they come, then a table."""
    table = Table("", "batch", "tokens/s", "TPF", "window ms", "window x", "outside", "speedup", title=title)
    for row in rows:
        sys.stdout.write(json.dumps({"shape": title, **row, **about}) + "\n")
        sys.stdout.flush()
        step, least = row.get("window", 0.0), row.get("window_floor", 0.0)
        table.add_row(
            row["what"], str(row.get("batch", 1)), f"{row['tokens_per_second']:.1f}",
            f"{row['tokens_per_forward']:.2f}" if "tokens_per_forward" in row else "",
            f"{1e3 * step:.2f}" if step else "", f"{step / least:.2f}" if least else "",
            f"{row['outside']:.1%}" if "outside" in row else "",
            f"{row['speedup']:.2f}" if "speedup" in row else "",
        )  # fmt: skip
    console = Console(stderr=True)
    (console if console.is_terminal else Console(stderr=True, width=120)).print(table)


if __name__ == "__main__":
    typer.run(main)
