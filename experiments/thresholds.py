"""Accuracy and throughput against a rule's one number: the threshold, the factor, the tokens a step.

Question: the threshold curve of Fast-dLLM (accuracy and throughput against tau, beside a fixed number of tokens a step)
          and the same for its factor rule: is a rule that looks at confidence better than a fixed pace at equal speed?
Method:   greedy decoding of held-out problems, blocks of 32 over the prefix cache (exact on a block-causal model,
          so that nothing but the rule changes); all settings in turn, `repeats` times, all prompts in one batch.
          Throughput is the median, over the repeats, of a run's tokens per second (of the processor) over those of one
          token a step beside it.
Read:     in the first three panels accuracy (blue, left scale, bars of two standard errors) should stay up while
          throughput (orange, right scale) rises; in the last, further right and further up is better. One token a step
          by confidence decides the end tokens behind an answer one by one too, which is why it makes less than one
          generated token a forward, and why all that is faster than it is much faster.
Run:      python -m experiments.thresholds --count 100 --output experiments/results/thresholds.jsonl
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer
from rich.progress import track

from dllm import Factor, Threshold, TopK
from dllm.types import Policy
from experiments import common
from experiments.common import (
    CountOption,
    KindOption,
    ModelOption,
    OutputOption,
    ProblemKind,
    RepeatsOption,
    Row,
    ThreadsOption,
)

RULES: dict[str, dict[float, Policy]] = {
    "tokens a step": {k: TopK(k=k) for k in (1, 2, 3, 4, 6, 8)},
    "threshold": {tau: Threshold(tau) for tau in (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)},
    "factor": {f: Factor(f) for f in (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)},
}
LABELS = {"tokens a step": "tokens a step, k", "threshold": "threshold τ", "factor": "factor f"}


def summarize_settings(rows: list[Row]) -> list[Row]:
    """One row a setting: the counts, which no repeat changes, and the ratio of throughput."""
    cells: dict[tuple[str, float], list[Row]] = {}
    for row in rows:
        cells.setdefault((row["rule"], row["value"]), []).append(row)
    base = cells["tokens a step", 1]
    return [{**found[0], "speedup": common.compute_speedup(found, base)} for found in cells.values()]


def _plot_settings(rows: list[Row], count: int, kind: ProblemKind, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(2, 2, figsize=(11, 8), layout="constrained")
    least = min(row["accuracy"] - common.compute_two_errors(row["accuracy"], count) for row in rows)
    scale = max(0.0, round(least - 0.05, 1)), 1.01
    for panel, (rule, label) in zip(panels.flat, LABELS.items(), strict=False):
        here = [row for row in rows if row["rule"] == rule]
        values = [row["value"] for row in here]
        shares = [row["accuracy"] for row in here]
        panel.errorbar(
            values, shares, [common.compute_two_errors(s, count) for s in shares], fmt="o-", color="C0", capsize=2
        )
        panel.set(xlabel=label, ylim=scale)
        panel.set_ylabel("share of problems solved", color="C0")
        if rule != "threshold":
            panel.set_xscale("log", base=2)
            panel.set_xticks(values, [f"{value:g}" for value in values])
        other = panel.twinx()
        other.plot(values, [row["speedup"] for row in here], "s--", color="C1")
        other.set(ylim=(0, 1.1 * max(row["speedup"] for row in rows)))
        other.set_ylabel("throughput (× one token a step)", color="C1")
        other.spines["right"].set_visible(True)
        other.grid(False)
    last = panels.flat[3]
    for rule, style in zip(RULES, ("s-", "o-", "^-"), strict=True):
        here = [row for row in rows if row["rule"] == rule]
        last.plot([row["tokens_per_forward"] for row in here], [row["accuracy"] for row in here], style, label=rule)
    last.set(xlabel="generated tokens per forward", ylabel="share of problems solved", ylim=scale)
    last.legend()
    figure.suptitle(f"Accuracy and throughput by rule, {count} {kind.many}, blocks of 32, prefix cache")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 100,
    kind: KindOption = ProblemKind.word,
    repeats: RepeatsOption = 3,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("thresholds.jsonl"),
) -> None:
    """Decode held-out problems by each setting of each rule."""
    loaded: Any = common.load_model(model, threads)
    asked = common.draw_problems(count, kind)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    settings = [(rule, value, policy) for rule, values in RULES.items() for value, policy in values.items()]
    turns = [(repeat, *setting) for repeat in range(repeats) for setting in settings]
    rows = [
        journal.row(
            {"rule": rule, "value": value, "kind": kind, "count": count, "repeat": repeat},
            common.measure_strategy,
            loaded,
            asked,
            common.make_strategy(loaded, policy),
        )
        for repeat, rule, value, policy in track(turns, console=console, description="decoding")
    ]
    found = summarize_settings(rows)
    common.print_table(
        console,
        ("rule", "value", "exact", "TPF", "× throughput", "certified"),
        [
            [r["rule"], r["value"], r["accuracy"], r["tokens_per_forward"], r["speedup"], r["certified_share"]]
            for r in found
        ],
        f"{count} {kind.many}, {repeats} runs of each in turn",
    )
    _plot_settings(found, count, kind, output)


if __name__ == "__main__":
    typer.run(main)
