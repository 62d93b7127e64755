"""Cost and gain of deciding several tokens at once with the embedded model.

Question: on word problems it has never seen, how do accuracy, tokens per forward and the certified share change from
          one token at a time to ever bolder parallel rules, and does a cache change the answer?
Method:   greedy decoding of held-out prompts by each strategy; an answer is right if its final number is. Every row of
          a batch is independent of the others, so the batch size changes nothing but the time.
Read:     accuracy should stay near its first row as tokens per forward rise; where it falls, the rule is too bold.
          "TPF" counts every forward, "denoising TPF" leaves out those that only store a finished block and decide at
          most the next block's first token.
Run:      python -m experiments.embedded_accuracy --count 300 > accuracy.jsonl
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from itertools import islice
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import dllm
from dllm import Blocks, Collector, DualCache, Factor, LeftToRight, NoCache, PrefixCache, Strategy, Threshold, TopK
from dllm.engine.results import split_into_batches
from dllm.prompts import make_requests
from experiments.embedded_text import Example, generate_examples, is_correct

BLOCK = Blocks(commit=True)
SUB_BLOCK = Blocks(sub_block=8, commit=True)


def _list_strategies() -> Iterator[tuple[str, Strategy]]:
    """Name and strategy of every row of the table."""
    yield "left to right, one a step", Strategy(TopK(k=1, score=LeftToRight()), BLOCK, PrefixCache())
    yield "most confident, one a step", Strategy(TopK(k=1), BLOCK, PrefixCache())
    for tau in (0.95, 0.9, 0.8, 0.6, 0.4):
        yield f"threshold {tau}", Strategy(Threshold(tau), BLOCK, PrefixCache())
    for f in (0.5, 1.0, 2.0):
        yield f"factor {f}", Strategy(Factor(f), BLOCK, PrefixCache())
    yield "threshold 0.9, no cache", Strategy(Threshold(0.9), BLOCK, NoCache())
    yield "threshold 0.9, sub-blocks of 8", Strategy(Threshold(0.9), SUB_BLOCK, PrefixCache())
    yield "threshold 0.9, sub-block cache", Strategy(Threshold(0.9), SUB_BLOCK, DualCache(while_first=True))


def measure_accuracy(model: Any, problems: list[Example], strategy: Strategy, batch_size: int) -> dict[str, Any]:
    """Accuracy and cost of one strategy over the problems."""
    requests = make_requests(model, [p.prompt for p in problems], max_new_tokens=96)
    results, commits = [], 0
    start = time.perf_counter()
    for batch in split_into_batches(requests, batch_size):
        collector = Collector(model, batch, strategy)
        for step in dllm.steps(model, batch, strategy):
            collector.add(step)
            commits += int(step.window.commit.sum())
        results += collector.results()
    seconds = time.perf_counter() - start
    tokens, forwards = sum(len(r.output_ids) for r in results), sum(r.nfe for r in results)
    parallel, certified = sum(r.parallel for r in results), sum(r.certified for r in results)
    return {
        "accuracy": sum(is_correct(p, r.text or "") for p, r in zip(problems, results, strict=True)) / len(problems),
        "tokens": tokens,
        "nfe": forwards,
        "tokens_per_forward": tokens / forwards,
        "tokens_per_denoising_forward": tokens / max(1, forwards - commits),
        "certified": certified / parallel if parallel else None,
        "tokens_per_second": tokens / seconds,
    }


def main(
    model: Annotated[str, typer.Option(help="Checkpoint to decode with.")] = "embedded",
    count: Annotated[int, typer.Option(help="Held-out problems of each kind.")] = 300,
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 50,
    kind: Annotated[list[str] | None, typer.Option(help="Kinds of problem: word, sum.")] = None,
) -> None:
    """Decode held-out problems by every strategy: a table on stderr, one JSON object a row on stdout."""
    kinds = kind or ["word", "sum"]
    console = Console(stderr=True)
    loaded = dllm.load(model)
    versions = {
        "dllm": dllm.__version__,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
    }
    table = Table("strategy", *(f"{k} exact" for k in kinds), "TPF", "denoising TPF", "certified", "tokens/s")
    for name, strategy in track(list(_list_strategies()), console=console, description="decoding"):
        found = {
            k: measure_accuracy(
                loaded, list(islice(generate_examples("report", held=True, kinds=(k,)), count)), strategy, batch_size
            )
            for k in kinds
        }
        for k, figures in found.items():
            row = {"strategy": name, "kind": k, "count": count, **figures, "repr": repr(strategy), **versions}
            sys.stdout.write(json.dumps(row) + "\n")
            sys.stdout.flush()
        first = found[kinds[0]]
        share = "–" if first["certified"] is None else f"{first['certified']:.2f}"
        table.add_row(
            name,
            *(f"{found[k]['accuracy']:.3f}" for k in kinds),
            f"{first['tokens_per_forward']:.2f}",
            f"{first['tokens_per_denoising_forward']:.2f}",
            share,
            f"{first['tokens_per_second']:.0f}",
        )
    console.print(table)
    console.print(f"{count} problems of each kind, seed 'report'; TPF to tokens/s: {kinds[0]} problems")


if __name__ == "__main__":
    typer.run(main)
