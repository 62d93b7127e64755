"""A compiled window step beside the same step uncompiled, turn by turn: what the compiled store costs.

    python -m benchmarks.compiled_forward --rows 8 --slots 32 --columns 2048 --layers 4 --threads 1

With one thread on a CPU its own processor time is taken, which other load on the machine disturbs less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from typing import Any

import torch

from dllm.bench.shapes import SHAPES, make_random_model
from dllm.models import TransformerModel
from dllm.models.compiled import CompiledModel
from dllm.types import Query


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"rows": 8, "slots": 32, "columns": 2048, "layers": 4, "turns": 25}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--shape", default="small", choices=list(SHAPES))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    dtype = torch.float32 if given.device == "cpu" else torch.bfloat16
    model = make_random_model(replace(SHAPES[given.shape], layers=given.layers, vocabulary=512), given.device, dtype)
    print(json.dumps(vars(given) | {"torch": torch.__version__} | measure(model, given)))


@torch.inference_mode()
def measure(model: TransformerModel, given: Any) -> dict[str, float]:
    """Medians of the seconds of a forward and of the ratios of neighbouring turns, and their middle half."""
    ways = {"eager": model, "compiled": CompiledModel.of(model)}
    stores = {name: way.store(given.columns) for name, way in ways.items()}
    asked = window_query(model, given)
    clock = time.thread_time if model.device.type == "cpu" and given.threads == 1 else time.perf_counter
    for _ in range(5):
        shown = {name: way.forward(asked, stores[name]) for name, way in ways.items()}
    torch.testing.assert_close(shown["compiled"], shown["eager"], rtol=0.05, atol=0.05)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(given.turns):
        for name in sorted(ways, reverse=bool(turn % 2)):
            begun = clock()
            ways[name].forward(asked, stores[name])
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            seconds[name].append(clock() - begun)
    ratios = [c / e for c, e in zip(seconds["compiled"], seconds["eager"], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    times = {f"{name}_ms": round(1e3 * statistics.median(taken), 2) for name, taken in seconds.items()}
    return times | {"ratio": round(middle, 3), "ratio_quarter": round(low, 3), "ratio_three_quarters": round(high, 3)}


def window_query(model: TransformerModel, given: Any) -> Query:
    """The last columns of every row, which look at all keys."""
    draw = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.vocabulary - 1, (given.rows, given.slots), generator=draw).to(model.device)
    start = given.columns - given.slots
    columns = torch.arange(start, given.columns, device=model.device).expand(given.rows, -1)
    valid = torch.ones_like(columns, dtype=torch.bool)
    return Query(tokens, columns, valid, given.columns, None, start)


if __name__ == "__main__":
    main()
