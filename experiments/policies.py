"""Cost of a guarantee, and gain of each published rule, on this model.

Question: at equal accuracy, how many tokens a forward does each policy commit; how much of that is certified to equal
          greedy decoding one by one; what do the certified rules give up against the bold ones; does a cache change it?
Method:   greedy decoding of held-out problems by the embedded model, every policy over a range of its parameter,
          without a cache, with the prefix cache (exact on this block-causal model) and with the sub-block cache. An
          answer is right if its final number is; "agrees" is the share of texts equal to those of one token a step.
Read:     further right is faster, further up is better; the line joins the settings that no other beats in both.
          Certified policies are drawn as stars. Rows that share a batch do not depend on each other.
Run:      python -m experiments.policies --count 200 --kind sum --output policies_sum.jsonl --plot policies_sum.png
          (run again with the same output it goes on where it stopped; --plot needs the extra `plot`)
"""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import torch
import transformers
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

import dllm
from dllm import (
    KLASS,
    WINO,
    Blocks,
    CertaintyPrior,
    Certified,
    Collector,
    Cosine,
    CreditDecoding,
    DecayingThreshold,
    Dilated,
    DualCache,
    EarlyCommit,
    EntropyBound,
    EntropyThreshold,
    ErrorBudget,
    Factor,
    JointThreshold,
    LeftToRight,
    LocalLeap,
    Margin,
    NoCache,
    PositionCalibrated,
    PrefixCache,
    ReMDM,
    RunHierarchy,
    Saber,
    Sampling,
    SequenceBudget,
    Stairs,
    Strategy,
    Threshold,
    TopK,
)
from dllm.cli.listing import format_part
from dllm.prompts import make_requests
from experiments import common
from experiments.common import CountOption, KindOption, ProblemKind, ThreadsOption
from experiments.embedded_text import Example, is_correct

NEW = 96
CERTIFIED = {"certified", "factor", "error budget", "sequence budget", "one a step"}
"""Policies that come with a guarantee (factor at f = 1)."""


def _list_policies() -> Iterator[tuple[str, Any, Sampling]]:
    """Name, policy and sampling of every point."""
    plain = Sampling(tempered=True)
    for k in (1, 2, 3, 4):
        yield ("one a step" if k == 1 else "fixed k"), TopK(k=k), plain
    yield "left to right", TopK(k=1, score=LeftToRight()), plain
    yield "certified", Certified(), plain
    for f in (0.5, 1.0, 2.0, 4.0):
        yield ("factor" if f == 1 else "factor, other f"), Factor(f), plain
    for delta in (0.05, 0.2, 0.5):
        yield "error budget", ErrorBudget(delta), plain
    for delta in (0.5, 2.0, 5.0):
        yield "sequence budget", SequenceBudget(delta), plain
    for tau in (0.6, 0.8, 0.9, 0.95):
        yield "threshold", Threshold(tau), plain
        yield "credit", Threshold(tau), Sampling(tempered=True, processors=(CreditDecoding(),))
    for tau in (0.4, 0.8):
        yield "margin threshold", Threshold(tau, score=Margin()), plain
    for gamma in (0.01, 0.1, 1.0):
        yield "entropy bound", EntropyBound(gamma), plain
    for h in (0.1, 0.5):
        yield "entropy threshold", EntropyThreshold(h), plain
    yield "decaying threshold", DecayingThreshold(), plain
    yield "position calibrated", TopK(k=2, score=PositionCalibrated()), plain
    yield "certainty prior", CertaintyPrior(TopK(k=2)), plain
    for tau, kl in ((0.9, 0.01), (0.6, 0.015)):
        yield "KLASS", KLASS(tau, kl), plain
    yield "local leap", LocalLeap(), plain
    yield "run hierarchy", RunHierarchy(), plain
    yield "dilated", Dilated(), plain
    yield "early commit (Prophet)", EarlyCommit(TopK(k=1), Stairs()), plain
    yield "early commit (SchED)", EarlyCommit(TopK(k=1), Cosine()), plain
    yield "Saber", Saber(), plain
    for tau in (0.6, 0.8):
        yield "WINO", WINO(tau), plain
    yield "joint threshold (quality)", JointThreshold(0.7, 0.5), plain
    yield "joint threshold (speed)", JointThreshold(0.5, 0.0), plain
    yield "ReMDM", ReMDM(steps=32), plain


def _list_cells() -> Iterator[tuple[str, str, Strategy]]:
    """Policy, cache and strategy of every cell."""
    ways = (
        ("none", Blocks(commit=True), NoCache()),
        ("prefix", Blocks(commit=True), PrefixCache()),
        ("sub-block", Blocks(sub_block=8, commit=True), DualCache(while_first=True)),
    )
    for cache, scheduler, part in ways:
        for name, policy, sampling in _list_policies():
            yield name, cache, Strategy(policy, scheduler, part, sampling)


def _measure_strategy(model: Any, problems: list[Example], strategy: Strategy, batch_size: int) -> dict[str, Any]:
    """Accuracy and cost of one strategy over the problems, and its texts."""
    requests = make_requests(model, [p.prompt for p in problems], NEW)
    collector, commits = Collector(model, requests, strategy), 0
    start = time.perf_counter()
    for step in dllm.steps(model, requests, strategy, batch_size=batch_size):
        collector.add(step)
        commits += int(step.window.commit.sum())
    seconds, results = time.perf_counter() - start, collector.results()
    tokens, forwards = sum(len(r.output_ids) for r in results), sum(r.nfe for r in results)
    parallel, certified = sum(r.parallel for r in results), sum(r.certified for r in results)
    return {
        "accuracy": sum(is_correct(p, r.text or "") for p, r in zip(problems, results, strict=True)) / len(problems),
        "tokens": tokens,
        "nfe": forwards,
        "queries": sum(r.queries for r in results),
        "tokens_per_forward": tokens / forwards,
        "tokens_per_denoising_forward": tokens / max(1, forwards - commits),
        "parallel": parallel,
        "certified": certified,
        "seconds": seconds,
        "texts": [r.text for r in results],
    }


def main(
    model: Annotated[str, typer.Option(help="Checkpoint to decode with.")] = "embedded",
    count: CountOption = 100,
    kind: KindOption = ProblemKind.word,
    batch_size: Annotated[int, typer.Option(help="Rows decoded together.")] = 50,
    output: Annotated[
        Path, typer.Option(help="JSON lines, one a cell; what is there already is not done again.")
    ] = Path("policies.jsonl"),
    plot: Annotated[Path | None, typer.Option(help="Where to draw accuracy over tokens per forward.")] = None,
    threads: ThreadsOption = 2,
) -> None:
    """Decode held-out problems by every policy, with and without caches; a table on stderr, JSON lines in a file."""
    torch.set_num_threads(threads)
    loaded = dllm.load(model)
    problems = common.draw_problems(count, kind)
    facts = {
        "model": model, "kind": kind, "count": count, "dllm": dllm.__version__, "torch": torch.__version__,
        "transformers": transformers.__version__, "machine": platform.processor() or platform.machine(),
        "threads": threads,
    }  # fmt: skip
    done = {(r["strategy"], r.get("kind", "word"), r["count"], r["model"]): r for r in common.read_rows(output)}
    console = common.make_console()
    rows: list[dict[str, Any]] = []
    for name, cache, strategy in track(list(_list_cells()), console=console, description="decoding"):
        key = (repr(strategy), kind, count, model)
        if key not in done:
            done[key] = {"policy": name, "cache": cache, "strategy": key[0], **facts}
            done[key] |= _measure_strategy(loaded, problems, strategy, batch_size)
            with output.open("a") as file:
                file.write(json.dumps(done[key]) + "\n")
        rows.append(done[key])
    sequential = next(r["texts"] for r in rows if r["policy"] == "one a step" and r["cache"] == "none")
    for row in rows:
        row["agrees"] = sum(a == b for a, b in zip(row["texts"], sequential, strict=True)) / count
    _print_rows(console, rows)
    if plot is not None:
        _plot_fronts(rows, plot)
    for row in rows:
        sys.stdout.write(json.dumps({k: v for k, v in row.items() if k != "texts"}) + "\n")


def _print_rows(console: Console, rows: list[dict[str, Any]]) -> None:
    table = Table("cache", "policy", "exact", "agrees", "TPF", "denoising TPF", "certified", "queries/token")
    names = _format_policies()
    for row in sorted(rows, key=lambda r: (r["cache"], -r["tokens_per_forward"])):
        share = f"{row['certified'] / row['parallel']:.2f}" if row["parallel"] else "–"
        table.add_row(
            row["cache"], names[row["strategy"]], f"{row['accuracy']:.3f}", f"{row['agrees']:.2f}",
            f"{row['tokens_per_forward']:.2f}", f"{row['tokens_per_denoising_forward']:.2f}", share,
            f"{row['queries'] / row['tokens']:.1f}",
        )  # fmt: skip
    console.print(table)


def _format_policies() -> dict[str, str]:
    """The shortest expression of every strategy's policy, by the strategy's repr."""
    return {
        repr(strategy): format_part(strategy.policy) + (" + credit" if strategy.sampling.processors else "")
        for _, _, strategy in _list_cells()
    }


def _select_front(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows that no other beats in tokens per forward and accuracy, slowest first."""
    ranked = sorted(rows, key=lambda r: (-r["tokens_per_forward"], -r["accuracy"]))
    best, kept = -1.0, []
    for row in ranked:
        if row["accuracy"] > best:
            best = row["accuracy"]
            kept.append(row)
    return kept[::-1]


def _plot_fronts(rows: list[dict[str, Any]], path: Path) -> None:
    """Accuracy over tokens per forward, one panel a cache; the policies of the front are named."""
    pyplot = common.import_pyplot()
    caches = list(dict.fromkeys(r["cache"] for r in rows))
    names = list(dict.fromkeys(r["policy"] for r in rows))
    colours = {name: pyplot.get_cmap("tab20")(i % 20) for i, name in enumerate(names)}
    marks = {name: "*" if name in CERTIFIED else "osD^v<>"[i // 20 + i % 3] for i, name in enumerate(names)}
    figure, panels = pyplot.subplots(1, len(caches), figsize=(5 * len(caches) + 3, 6), sharey=True, squeeze=False)
    for panel, cache in zip(panels[0], caches, strict=True):
        here = [r for r in rows if r["cache"] == cache]
        best = _select_front(here)
        panel.plot([r["tokens_per_forward"] for r in best], [r["accuracy"] for r in best], color="0.7", zorder=1)
        for row in here:
            name = row["policy"]
            panel.scatter(
                row["tokens_per_forward"], row["accuracy"], color=colours[name], marker=marks[name],
                s=140 if marks[name] == "*" else 45, edgecolors="black", linewidths=0.4, zorder=2,
            )  # fmt: skip
        for row in (r for i, r in enumerate(best) if i == 0 or r["policy"] != best[i - 1]["policy"]):
            panel.annotate(
                row["policy"], (row["tokens_per_forward"], row["accuracy"]), (7, 5), textcoords="offset points",
                fontsize=8, rotation=30,
            )  # fmt: skip
        panel.set(title=f"{cache} cache" if cache != "none" else "no cache", xlabel="generated tokens per forward")
        panel.set_xlim(0, 1.2 * max(r["tokens_per_forward"] for r in rows))
    panels[0][0].set_ylabel("share of problems solved")
    least, most = min(r["accuracy"] for r in rows), max(r["accuracy"] for r in rows)
    panels[0][0].set_ylim(top=most + 0.2 * (most - least or 0.1))  # room for names
    handles = [
        pyplot.Line2D([], [], linestyle="", marker=marks[n], color=colours[n], markeredgecolor="black", label=n)
        for n in names
    ]
    figure.legend(handles=handles, loc="center right", fontsize=8, title="policy (stars: guaranteed)")
    figure.tight_layout(rect=(0, 0, 1 - 2.6 / figure.get_figwidth(), 1))
    common.save_figure(figure, path)


if __name__ == "__main__":
    typer.run(main)
