"""A real model with attention everywhere: how much of an antibody can be filled in, and in how many forwards?

Question: AntiBERTy was trained to fill in masked residues with attention in both directions, so every rule of decoding
          means for it what the papers mean. When 15 to 100 % of a sequence is masked, what does each rule recover, and
          at how many forwards?
Method:   known antibody sequences (experiments/sequences.py) with a share of their residues masked at random, the same
          ones for every rule; the masked columns are holes of the request and decoded greedily, the whole sequence as
          one window, without a cache (the stock class keeps none). Recovery is the share of masked residues that come
          back. The model is a checkpoint that `experiments/antiberty.py` makes from the PyPI package.
Read:     up is better, left is faster: recovery over forwards a sequence, one panel for each share that is masked. If a
          rule with few forwards lies as high as one residue a step, parallel decoding costs nothing there. Residues
          that vary freely between antibodies cannot be recovered by any rule, and a fully masked sequence says only how
          long it is: there the decoded sequence is the model's own, and recovery tells how near to a typical one the
          true one lies.
Run:      python -m experiments.antibody --model runs/antiberty --count 4 --output experiments/results/antibody.jsonl
"""

from __future__ import annotations

from pathlib import Path
from random import Random
from typing import Annotated, Any

import typer
from rich.progress import track

import dllm
from dllm import (
    Certified,
    EntropyBound,
    Factor,
    LeftToRight,
    NoCache,
    Request,
    Strategy,
    Threshold,
    TopK,
    Whole,
)
from dllm.metrics import Totals
from dllm.types import Policy
from experiments import common
from experiments.antibody_sequences import ANTIBODIES, encode_sequence
from experiments.common import OutputOption, Row, ThreadsOption

SHARES = (0.15, 0.4, 0.7, 1.0)
RULES: dict[str, tuple[Policy, str]] = {
    "most confident, one a step": (TopK(k=1), "*"),
    "left to right, one a step": (TopK(k=1, score=LeftToRight()), "P"),
    "four a step": (TopK(k=4), "X"),
    "threshold 0.9": (Threshold(0.9), "o"),
    "threshold 0.7": (Threshold(0.7), "o"),
    "threshold 0.5": (Threshold(0.5), "o"),
    "factor 1": (Factor(1.0), "^"),
    "certified": (Certified(), "^"),
    "entropy bound 0.1": (EntropyBound(0.1), "D"),
    "all at once": (Threshold(0.0), "s"),
}


def _mask_residues(model: Any, sequence: str, share: float, seed: str) -> Request:
    """A request to fill in a share of the residues, at least one, drawn from the seed."""
    ids = encode_sequence(model, sequence)
    inside = range(1, len(ids) - 1)
    holes = Random(seed).sample(inside, max(1, round(share * len(inside))))
    return Request(ids, 0, stop_ids=(), holes=tuple(sorted(holes)))


def _measure_recovery(model: Any, policy: Policy, share: float, count: int) -> Row:
    """Recovery and cost of one rule on all sequences."""
    requests = [_mask_residues(model, s, share, f"{name} {share}") for name, s in list(ANTIBODIES.items())[:count]]
    strategy = Strategy(policy, Whole(), NoCache())
    results = dllm.decode(model, requests, strategy)
    right = sum(
        token == request.prompt[hole]
        for request, result in zip(requests, results, strict=True)
        for hole, token in zip(request.holes, result.output_ids, strict=True)
    )
    totals = Totals.of(results, sum(r.seconds for r in results))
    return {
        "strategy": repr(strategy),
        "masked": totals.tokens,
        "recovery": right / totals.tokens,
        "forwards": totals.nfe / len(results),
        "tokens_per_forward": totals.tokens_per_forward,
        "certified_share": totals.certified_share,
        "texts": [r.text for r in results],
    }


def _plot_recovery(rows: list[Row], count: int, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(1, len(SHARES), figsize=(14, 5), sharey=True, layout="constrained")
    for panel, share in zip(panels, SHARES, strict=True):
        here = [row for row in rows if row["share"] == share]
        for i, row in enumerate(here):
            panel.errorbar(
                row["forwards"], row["recovery"], common.compute_two_errors(row["recovery"], row["masked"]),
                color=f"C{i}", fmt=RULES[row["rule"]][1], markersize=9, markeredgecolor="black", ecolor="0.8",
                label=row["rule"],
            )  # fmt: skip
        panel.set(title=f"{share:.0%} masked ({here[0]['masked']} residues)", xlabel="forwards per sequence")
        panel.set(xscale="log", xlim=(0.8, 160), ylim=(0, 1))
        panel.set_xticks([1, 3, 10, 30, 100], ["1", "3", "10", "30", "100"])
    panels[0].set_ylabel("share of masked residues recovered")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle(f"Filling in {count} antibody sequences with AntiBERTy (bars: two standard errors)")
    common.save_figure(figure, output)


def main(
    model: Annotated[str, typer.Option(help="AntiBERTy as a checkpoint, from experiments.antiberty.")],
    count: Annotated[int, typer.Option(help="Sequences.", max=len(ANTIBODIES))] = len(ANTIBODIES),
    threads: ThreadsOption = 1,
    output: OutputOption = Path("antibody.jsonl"),
) -> None:
    """Mask antibody sequences and fill them in by every rule."""
    loaded: Any = common.load_model(model, threads)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    turns = [(share, rule) for share in SHARES for rule in RULES]
    rows = [
        journal.row(
            {"rule": rule, "share": share, "count": count},
            _measure_recovery,
            loaded,
            RULES[rule][0],
            share,
            count,
        )
        for share, rule in track(turns, console=console, description="decoding")
    ]
    common.print_table(
        console,
        ("masked", "rule", "recovered", "forwards", "TPF", "certified"),
        [
            [
                f"{r['share']:.0%}", r["rule"], r["recovery"], r["forwards"], r["tokens_per_forward"],
                r["certified_share"],
            ]
            for r in rows
        ],
        f"{count} antibody sequences",
    )  # fmt: skip
    _plot_recovery(rows, count, output)


if __name__ == "__main__":
    typer.run(main)
