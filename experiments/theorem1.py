"""Theorem 1 in practice: the share of parallel commits that meet its condition, and that come out as one by one.

Question: of the groups of tokens that a rule commits at once, what share meets the condition of Fast-dLLM's Theorem 1,
          what share the exact criterion, and what share is what greedy decoding one token at a time would have written
          in their place? The theorem promises that for the marginals of one joint distribution, which a trained
          network's need not be.
Method:   greedy decoding of held-out problems in blocks of 32 over the prefix cache (exact, so that nothing stale
          blurs the question). Every group of two or more is then decoded again from the canvas as it was before,
          without a cache: its columns alone, one a step, the most confident first. A group agrees if all its tokens are
          the same. Theorem 1 holds for a group of n whose least confidence is c if (n + 1)(1 - c) < 1.
Read:     left, agreement over (n + 1)(1 - c), all rules together: the theorem vouches for what lies left of the line,
          and what falls short of 1 there is the network's own inconsistency. Right, for each rule the share of its
          groups that is vouched for and the share that agrees; the gap between the two is what the bound leaves
          unclaimed.
Run:      python -m experiments.theorem1 --count 100 --output experiments/results/theorem1.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import typer
from rich.progress import track
from torch import Tensor

import dllm
from dllm import Blocks, Factor, NoCache, PrefixCache, Request, Strategy, Threshold, TopK, Whole, theory
from dllm.prompts import make_requests
from dllm.types import BlockCausal, Policy
from experiments import common
from experiments.common import CountOption, KindOption, ModelOption, OutputOption, ProblemKind, Row, ThreadsOption

RULES: dict[str, Policy] = {
    "threshold 0.9": Threshold(0.9),
    "threshold 0.7": Threshold(0.7),
    "threshold 0.5": Threshold(0.5),
    "factor 1": Factor(1.0),
    "factor 2": Factor(2.0),
    "factor 4": Factor(4.0),
    "two a step": TopK(k=2),
    "four a step": TopK(k=4),
}
EDGES = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 1.5, 2.0, 3.0, 5.0)
"""Bounds of the bins of (n + 1)(1 - c); 1 is Theorem 1's."""


class CommitGroup(NamedTuple):
    """Tokens that were committed at once.

    request   decodes their columns again, from the canvas as it was
    tokens    what was committed, in order of columns
    size      n + 1 times the largest deficit: what Theorem 1 asks to be below 1
    theorem1  whether it holds
    exact     whether the exact criterion does (`theory.certified`)
    """

    request: Request
    tokens: tuple[int, ...]
    size: float
    theorem1: bool
    exact: bool


def collect_groups(model: Any, requests: list[Request], strategy: Strategy) -> Iterator[CommitGroup]:
    """Every commit of two or more columns of a row."""
    for step in dllm.steps(model, requests, strategy):
        window, guess, commit = step.window, step.guess, step.commit
        holds = theory.theorem1_holds(guess.confidence, commit)
        exact = theory.is_certified(guess.p1, guess.p2, commit)
        before = window.put(step.canvas.tokens, model.mask_id, commit)
        for row in (commit.sum(1) >= 2).nonzero().flatten().tolist():
            columns = window.columns[row][commit[row]]
            end = int(window.block_end[row])
            deficit = float((1 - guess.confidence[row][commit[row]]).max())
            yield CommitGroup(
                Request(tuple(before[row, :end].tolist()), 0, stop_ids=(), holes=tuple(columns.tolist())),
                tuple(guess.tokens[row][commit[row]].tolist()),
                (len(columns) + 1) * deficit,
                bool(holds[row]),
                bool(exact[row]),
            )


def check_agreement(model: Any, found: list[CommitGroup]) -> Tensor:
    """Find the groups (g,) that come out the same when their columns are decoded one a step."""
    alone = Strategy(TopK(k=1), Whole(), NoCache())
    again = dllm.decode(model, [g.request for g in found], alone, batch_size=64) if found else []
    return torch.tensor([r.output_ids == g.tokens for r, g in zip(again, found, strict=True)], dtype=torch.bool)


def _measure_agreement(model: Any, policy: Policy, count: int, kind: ProblemKind) -> Row:
    """Counts over all groups of a rule."""
    requests = make_requests(model, [p.prompt for p in common.draw_problems(count, kind)], common.NEW)
    blocks = Blocks(commit=True) if isinstance(model.geometry, BlockCausal) else Blocks()
    strategy = Strategy(policy, blocks, PrefixCache())
    found = list(collect_groups(model, requests, strategy))
    same = check_agreement(model, found)
    holds = torch.tensor([g.theorem1 for g in found], dtype=torch.bool)
    exact = torch.tensor([g.exact for g in found], dtype=torch.bool)
    place = torch.bucketize(torch.tensor([g.size for g in found]), torch.tensor(EDGES), right=True)
    return {
        "strategy": repr(strategy),
        "groups": len(found),
        "tokens": sum(len(g.tokens) for g in found),
        "theorem1": int(holds.sum()),
        "exact": int(exact.sum()),
        "agree": int(same.sum()),
        "theorem1_agree": int((same & holds).sum()),
        "exact_agree": int((same & exact).sum()),
        "bins": torch.bincount(place, minlength=len(EDGES) + 1).tolist(),
        "bins_agree": torch.bincount(place[same], minlength=len(EDGES) + 1).tolist(),
    }


def _plot_agreement(rows: list[Row], output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 5), layout="constrained")
    numbers = [sum(row["bins"][i] for row in rows) for i in range(len(EDGES) + 1)]
    agree = [sum(row["bins_agree"][i] for row in rows) for i in range(len(EDGES) + 1)]
    full = [i for i, n in enumerate(numbers) if n >= 10]
    shares = [agree[i] / numbers[i] for i in full]
    bars = [common.compute_two_errors(s, numbers[i]) for s, i in zip(shares, full, strict=True)]
    lower = [1e-4, *EDGES]
    middles = [(lower[i] * [*EDGES, 8.0][i]) ** 0.5 for i in full]
    left.errorbar(middles, shares, bars, fmt="o-", capsize=3)
    for x, share, i in zip(middles, shares, full, strict=True):
        left.annotate(f"{numbers[i]}", (x, share), (0, -16), textcoords="offset points", ha="center", fontsize=7)
    left.axvspan(lower[0], 1, color="C2", alpha=0.12, linewidth=0)
    left.axvline(1, color="C2")
    left.text(0.9, 0.06, "Theorem 1 vouches", ha="right", color="C2", transform=left.get_xaxis_transform())
    left.set(
        xscale="log", ylim=(0, 1.04), xlabel="(n + 1)(1 − c): n committed together, c their least confidence",
        ylabel="share of groups equal to one token at a time", title="agreement (numbers: groups in the bin)",
    )  # fmt: skip
    places = range(len(rows))
    for shift, name, label in (
        (0.27, "theorem1", "Theorem 1 holds"),
        (0.0, "exact", "exact criterion holds"),
        (-0.27, "agree", "equal to one token at a time"),
    ):
        right.barh([shift - p for p in places], [r[name] / max(1, r["groups"]) for r in rows], 0.26, label=label)
    right.set_yticks([-p for p in places], [f"{row['rule']}\n{row['groups']} groups" for row in rows], fontsize=8)
    right.set(xlabel="share of the rule's parallel commits", xlim=(0, 1.01))
    right.grid(axis="y", visible=False)
    right.legend(loc="upper center", bbox_to_anchor=(0.4, 1.1), ncols=3, fontsize=8, frameon=False)
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 100,
    kind: KindOption = ProblemKind.word,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("theorem1.jsonl"),
) -> None:
    """Decode held-out problems, and every parallel commit again one token at a time."""
    loaded: Any = common.load_model(model, threads)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    rows = [
        journal.row({"rule": rule, "kind": kind, "count": count}, _measure_agreement, loaded, policy, count, kind)
        for rule, policy in track(RULES.items(), console=console, description="decoding")
    ]

    def share(row: Row, part: str, whole: str) -> float | None:
        return row[part] / row[whole] if row[whole] else None

    common.print_table(
        console,
        ("rule", "groups", "tokens", "Theorem 1", "exact", "agree", "agree if Theorem 1", "agree if exact"),
        [
            [
                r["rule"], r["groups"], r["tokens"], share(r, "theorem1", "groups"), share(r, "exact", "groups"),
                share(r, "agree", "groups"), share(r, "theorem1_agree", "theorem1"), share(r, "exact_agree", "exact"),
            ]
            for r in rows
        ],
        f"groups of two or more committed at once, {count} {kind.many}",
    )  # fmt: skip
    _plot_agreement(rows, output)


if __name__ == "__main__":
    typer.run(main)
