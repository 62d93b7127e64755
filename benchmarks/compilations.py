"""Number of compilations that mixes of prompts cost on CUDA's settings, counted on a CPU with tiny models.

    python -m benchmarks.compilations

A mix is a queue of `--requests` on `--rows` rows, then `--single` calls of one row; prompts of 32 to `--longest`
tokens, `--new` new ones. No code is generated: what dynamo captures runs as it is. `shapes` counts what CUDA records
as graphs.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import torch
from torch._dynamo.testing import CompileCounter

import dllm
from dllm import Blocks, DualCache, Factor, PrefixCache, Request, Strategy, Threshold
from dllm.bench.shapes import ModelShape, make_random_model
from dllm.models import TransformerModel
from dllm.models.compiled import CompiledModel

LLADA = ModelShape("Llama", 32, 64, 2, 2, 2, 16, 128)
MIXES: dict[str, tuple[ModelShape, Strategy]] = {
    "bidirectional": (LLADA, Strategy(Factor(), Blocks(32), DualCache())),
    "bidirectional, shifted": (replace(LLADA, needs_left=1), Strategy(Factor(), Blocks(32), DualCache())),
    "block-causal": (replace(LLADA, block=32), Strategy(Threshold(0.9), Blocks(32), PrefixCache())),
    "block-causal, sub-blocks": (
        replace(LLADA, block=32, needs_left=1),
        Strategy(Threshold(0.9), Blocks(32, sub_block=8, commit=True), PrefixCache()),
    ),
}


class CountingCompiler:
    """A stand-in for `torch.compile` that counts what is compiled and which shapes are run.

    Attributes:
        counter: Captured graphs.
        shapes: Shapes of tokens, mask and keys.
    """

    def __init__(self) -> None:
        self.counter = CompileCounter()
        self.shapes: set[tuple[Any, ...]] = set()
        self._compile = torch.compile

    def __call__(self, function: Callable[..., Any], fullgraph: bool = False, **_: Any) -> Callable[..., Any]:
        compiled = self._compile(function, fullgraph=fullgraph, dynamic=False, backend=self.counter)

        def run(tokens: Any, columns: Any, mask: Any, index: Any, layers: Any) -> Any:
            self.shapes.add((tokens.shape, mask.shape, None if layers is None else layers[0][0].shape))
            return compiled(tokens, columns, mask, index, layers)

        return run


def prompts(count: int, longest: int, new: int, seed: int) -> list[Request]:
    draw = torch.Generator().manual_seed(seed)
    lengths = torch.randint(32, longest + 1, (count,), generator=draw).tolist()
    return [Request(tuple(torch.randint(127, (n,), generator=draw).tolist()), new, stop_ids=()) for n in lengths]


def count_compilations(model: TransformerModel, strategy: Strategy, given: Any) -> dict[str, int]:
    """Compilations and shapes after a mix's queue, and after its single calls too."""
    torch._dynamo.reset()
    compiler = CountingCompiler()
    found: dict[str, int] = {}
    with mock.patch.object(torch, "compile", compiler):
        compiled = replace(CompiledModel.of(model), graphs=True)
    for name, requests, rows in (
        ("queue", prompts(given.requests, given.longest, given.new, 0), given.rows),
        ("all", prompts(given.single, given.longest, given.new, 1), 1),
    ):
        for part in [requests] if rows > 1 else [[request] for request in requests]:
            dllm.decode(compiled, part, strategy, batch_size=rows)
        found |= {f"{name}_compilations": compiler.counter.frame_count, f"{name}_shapes": len(compiler.shapes)}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"requests": 96, "rows": 8, "single": 40, "new": 128, "longest": 1536}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--mix", action="append", choices=list(MIXES))
    given = parser.parse_args()
    for name in given.mix or MIXES:
        shape, strategy = MIXES[name]
        found = count_compilations(make_random_model(shape), strategy, given)
        print(json.dumps({"mix": name, "torch": torch.__version__} | found), flush=True)


if __name__ == "__main__":
    main()
