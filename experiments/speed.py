"""How fast is the loop, and how far from what the arithmetic alone costs?

Question: against the published loop on the same weights, how many tokens per second; and of our time, how much is the
          model's necessary matrix products, how much the rest of its forward, how much our own?
Method:   a LLaDA-format model with random weights (sharpened, so that confidences spread), one prompt; the published
          loop, ours, and the bare matrix products of every forward of our run, in turn, `repeats` times; medians and
          the median of the ratios pair by pair.
Read:     "times the floor" is our whole decode over its matrix products alone; 1.0 is the limit. "outside" is the share
          of our time not spent in the model (its decoder and its head).
Run:      python -m experiments.speed --vocabulary 126464 > speed.jsonl
"""

from __future__ import annotations

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Table
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

import dllm
from dllm import Blocks, DualCache, FactorAsPublished, NoCache, PrefixCache, Request, Stopping, Strategy, Threshold
from dllm.bench.timing import Clock
from dllm.models import TransformerModel
from dllm.models.compiled import CompiledModel
from dllm.types import Bidirectional, Cache, Step
from experiments.baselines.fast_dllm_v1 import generate

CACHES: dict[str, Cache] = {"none": NoCache(), "prefix": PrefixCache(), "dual": DualCache()}


def build(
    hidden: int, layers: int, heads: int, vocabulary: int, sharpness: float, attention: float
) -> LlamaForCausalLM:
    """A random model of the shape; its attention tells columns apart and its logits are spread, so that a threshold
    commits some tokens and not others."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=heads,
        max_position_embeddings=4096,
    )
    network = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        network.lm_head.weight.mul_(sharpness)
        for layer in network.model.layers:
            layer.self_attn.q_proj.weight.mul_(attention)
            layer.self_attn.k_proj.weight.mul_(attention)
    return network


@torch.inference_mode()
def products(network: LlamaForCausalLM, shapes: list[tuple[int, int]]) -> float:
    """Seconds for the matrix products alone of forwards over (columns, slots that need logits)."""
    linears = [m for m in network.model.modules() if isinstance(m, torch.nn.Linear)]
    widths = {m.in_features for m in linears}
    most = max(q for q, _ in shapes)
    inputs = {w: torch.randn(most, w) for w in widths}
    start = time.perf_counter()
    for columns, slots in shapes:
        for linear in linears:
            linear(inputs[linear.in_features][:columns])
        network.lm_head(inputs[network.config.hidden_size][:slots])
    return time.perf_counter() - start


def timed(run: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    out = run()
    return time.perf_counter() - start, out


def main(
    vocabulary: Annotated[int, typer.Option(help="Vocabulary of the random model.")] = 32_000,
    hidden: Annotated[int, typer.Option(help="Width.")] = 512,
    layers: Annotated[int, typer.Option(help="Layers.")] = 8,
    heads: Annotated[int, typer.Option(help="Attention heads.")] = 8,
    prompt: Annotated[int, typer.Option(help="Prompt tokens.")] = 128,
    new: Annotated[int, typer.Option(help="New tokens.")] = 128,
    block: Annotated[int, typer.Option(help="Columns of a block.")] = 32,
    cache: Annotated[str, typer.Option(help="none, prefix or dual.")] = "dual",
    tau: Annotated[float, typer.Option(help="Confidence threshold.")] = 0.9,
    f: Annotated[float | None, typer.Option(help="Use the published factor rule instead.")] = None,
    sharpness: Annotated[float, typer.Option(help="Factor on the head's weights: more tokens a forward.")] = 30.0,
    attention: Annotated[float, typer.Option(help="Factor on the weights of queries and keys.")] = 4.0,
    threads: Annotated[int, typer.Option(help="CPU threads.")] = 2,
    repeats: Annotated[int, typer.Option(help="Counted runs of each, in turn.")] = 5,
    compile: Annotated[bool, typer.Option("--compile", help="Compile our forwards.")] = False,
) -> None:
    """Time the published loop, ours, and the bare matrix products, in turn; a table on stderr, JSON on stdout."""
    torch.set_num_threads(threads)
    network = build(hidden, layers, heads, vocabulary, sharpness, attention)
    mask = vocabulary - 1
    ids = torch.randint(vocabulary - 1, (1, prompt), generator=torch.Generator().manual_seed(1))
    policy = Threshold(tau) if f is None else FactorAsPublished(f)
    strategy = Strategy(policy, Blocks(block), CACHES[cache], stopping=Stopping(()))
    model = TransformerModel(network, Bidirectional(), mask_id=mask)
    model = CompiledModel.of(model) if compile else model
    request = Request(tuple(ids[0].tolist()), new)

    def ours() -> list[Step]:
        return list(dllm.steps(model, [request], strategy))

    def published() -> tuple[Tensor, int]:
        return generate(network, ids, new, block, mask, cache, None if f is not None else tau, f)

    stream, (tokens, nfe) = ours(), published()
    same = bool(torch.equal(tokens, stream[-1].canvas.tokens)) and nfe == int(stream[-1].nfe[0])
    shapes = [(int(s.queries[0]), len(s.window.slots)) for s in stream]
    rows = []
    for _ in range(repeats):
        theirs, _ = timed(published)
        with Clock(model) as clock:
            mine, _ = timed(ours)
        rows.append((theirs, mine, clock.inside, products(network, shapes)))
    theirs, mine, inside, floor = (statistics.median(column) for column in zip(*rows, strict=True))
    figures = {
        "vocabulary": vocabulary, "cache": cache, "strategy": repr(strategy), "same_tokens_and_nfe": same, "nfe": nfe,
        "tokens_per_forward": new / nfe,
        "published_tokens_per_second": new / theirs, "tokens_per_second": new / mine,
        "speedup": statistics.median(a / b for a, b, _, _ in rows),
        "times_the_floor": statistics.median(b / d for _, b, _, d in rows),
        "outside_share": statistics.median(1 - c / b for _, b, c, _ in rows),
        "step_ms": 1e3 * mine / nfe, "floor_ms": 1e3 * floor / nfe, "model_ms": 1e3 * inside / nfe,
        "shape": {"hidden": hidden, "layers": layers, "heads": heads, "prompt": prompt, "new": new, "block": block},
        "sharpness": sharpness, "attention": attention, "threads": threads, "repeats": repeats, "compiled": compile,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }  # fmt: skip
    sys.stdout.write(json.dumps(figures) + "\n")
    table = Table("figure", "value", title=f"{cache} cache, vocabulary {vocabulary:,}, {threads} threads")
    for name in (
        "same_tokens_and_nfe", "nfe", "published_tokens_per_second", "tokens_per_second", "speedup", "times_the_floor",
        "outside_share", "step_ms", "model_ms", "floor_ms",
    ):  # fmt: skip
        value = figures[name]
        table.add_row(name, f"{value:.3g}" if isinstance(value, float) else str(value))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    typer.run(main)
