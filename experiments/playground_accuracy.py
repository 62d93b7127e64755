"""How well do the playground's models do each task, one token at a time and several at once?

Question: what does each task's accuracy do as more tokens are decided in a forward, and by which rule?
Method:   held-out prompts of each task at its default size, greedy, by each rule; the task's verifier decides. The
          autoregressive model decodes from left to right only, and cannot fill gaps.
Read:     one JSON line a task and rule: accuracy, tokens a forward, forwards an answer, and the fewest that a perfect
          model needs (greedy). Answers of the diffusion models end with an end token, which counts as a token.
Run:      python -m experiments.playground_accuracy --model runs/v2/model --count 100
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Annotated, Any

import torch
import typer

import dllm
from dllm import Blocks, Certified, Factor, LeftToRight, NoCache, PrefixCache, Strategy, Threshold, TopK
from dllm.engine.autoregressive import Autoregressive
from dllm.playground import TASKS, Example, Task, task
from dllm.prompts import Infill


def iterate_rules(model: Any, chosen: list[str]) -> Iterator[tuple[str, Any]]:
    """Iterate over the names and strategies of the chosen rules; of none, all rules that the model can follow."""
    if hasattr(model, "generate"):
        yield "autoregressive", Autoregressive()
        return
    causal = not isinstance(model.geometry, dllm.types.Bidirectional)
    place = (Blocks(commit=True), PrefixCache()) if causal else (Blocks(32), NoCache())
    policies: dict[str, Any] = {
        "left to right": TopK(k=1, score=LeftToRight()),
        "most confident": TopK(k=1),
        "left to right 2": TopK(k=2, score=LeftToRight()),
        "most confident 2": TopK(k=2),
        "left to right 4": TopK(k=4, score=LeftToRight()),
        "most confident 4": TopK(k=4),
        "threshold 0.9": Threshold(0.9),
        "threshold 0.6": Threshold(0.6),
        "factor 1": Factor(1.0),
        "certified": Certified(),
    }
    for name, policy in policies.items():
        if not chosen or name in chosen:
            yield name, Strategy(policy, *place)


def measure(model: Any, kind: Task, examples: tuple[Example, ...], strategy: Any, batch_size: int) -> dict[str, Any]:
    """Measure accuracy and cost of one rule on one task."""
    prompts: list[Any] = [Infill(e.prompt, hole=1) if e.infill else e.prompt for e in examples]
    results = dllm.decode(model, prompts, strategy, max_new_tokens=kind.tokens, batch_size=batch_size)
    right = sum(kind.is_right(e, r.text or "") for e, r in zip(examples, results, strict=True))
    tokens, forwards = sum(len(r.output_ids) for r in results), sum(r.nfe for r in results)
    limits = [kind.limit(e, "greedy") for e in examples]
    return {
        "accuracy": round(right / len(examples), 4),
        "tokens_per_forward": round(tokens / forwards, 3),
        "forwards": round(forwards / len(examples), 2),
        "limit": None if None in limits else sum(n for n in limits if n is not None) / len(limits),
        "wrong": next(
            ([e.prompt, r.text] for e, r in zip(examples, results, strict=True) if not kind.is_right(e, r.text or "")),
            None,
        ),
    }


def main(
    model: Annotated[str, typer.Option(help="model folder")],
    count: Annotated[int, typer.Option(help="prompts of each task")] = 100,
    names: Annotated[list[str] | None, typer.Option("--task", help="tasks; none: all")] = None,
    chosen: Annotated[list[str] | None, typer.Option("--rule", help="rules by name; none: all")] = None,
    size: Annotated[int | None, typer.Option(help="size of the tasks; none: each one's default")] = None,
    seed: Annotated[str, typer.Option(help="seed of the prompts")] = "report",
    batch_size: Annotated[int, typer.Option(help="prompts decoded together")] = 50,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
) -> None:
    """Measure a model on the playground's tasks."""
    torch.set_num_threads(threads)
    loaded: Any = dllm.load(model, dtype="float32")
    for name in names or list(TASKS):
        kind = task(name)
        examples = kind.examples(seed, size, count)
        for rule, strategy in iterate_rules(loaded, chosen or []):
            if examples[0].infill and hasattr(loaded, "generate"):
                continue
            found = measure(loaded, kind, examples, strategy, batch_size)
            sys.stdout.write(
                json.dumps({"task": name, "size": examples[0].size, "rule": rule, "count": count, **found}) + "\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    typer.run(main)
