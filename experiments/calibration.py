"""Does a confidence of 0.9 mean that the token is right nine times in ten?

Question: is the probability that a policy compares with its threshold calibrated: on texts as they were masked in
          training, and on the canvases that decoding makes for itself?
Method:   held-out problems, whose worked answer follows from the prompt, so that the right token of every column
          is known. "true context": in one block of the true text a share of the columns (0.25 to 1) is masked, all
          before it is true, and one forward guesses. "while decoding": greedy decoding by threshold 0.9 in blocks of
          32, every pending column of every forward, most of which the policy does not commit. Guesses fall in 15 bins
          of confidence.
Read:     on the diagonal confidence is what it says; below, the model claims too much. ECE is the mean distance from
          the diagonal, weighted by guesses. The lower panel says how many guesses a bin holds. While decoding, a column
          counts as wrong also where the text took another course and is right in its own way.
Run:      python -m experiments.calibration --count 100 --output experiments/results/calibration.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import torch
import typer
from torch import Tensor

import dllm
from dllm import Blocks, NoCache, PrefixCache, Request, Strategy, Threshold, Whole
from dllm.prompts import encode_prompt
from dllm.types import BlockCausal
from experiments import common
from experiments.common import CountOption, KindOption, ModelOption, OutputOption, ProblemKind, Row, ThreadsOption
from experiments.embedded_text import Example

BINS = 15
SHARES = (0.25, 0.5, 0.75, 1.0)
SOURCES = ("true context", "while decoding")


def _encode_true_text(model: Any, problem: Example, new: int = common.NEW) -> tuple[int, list[int]]:
    """Length of the prompt, and the ids of prompt and true answer; end tokens fill it up, as in training."""
    prompt = list(encode_prompt(model, problem.prompt))
    answer = list(model.tokenizer.encode(problem.completion, add_special_tokens=False))
    return len(prompt), prompt + answer + [model.stop_ids[0]] * (new - len(answer))


def _mask_true_text(model: Any, problem: Example, share: float, rng: Random) -> Request | None:
    """A request that guesses a share of the columns in one block of the true text; None where the draw leaves none."""
    start, ids = _encode_true_text(model, problem)
    size = model.geometry.size if isinstance(model.geometry, BlockCausal) else 32
    text = start + len(model.tokenizer.encode(problem.completion, add_special_tokens=False)) + 1
    first = rng.randrange(start // size, (text + size - 1) // size) * size
    holes = tuple(i for i in range(max(first, start), min(first + size, len(ids))) if rng.random() < share)
    ids = ids[: first + size]
    return Request(tuple(ids), 0, stop_ids=(), holes=holes) if holes else None


def _record_guesses(
    model: Any, requests: Sequence[Request], strategy: Strategy, texts: Sequence[Sequence[int]]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Confidence (n,) and whether the candidate is the true token (n,), of the pending slots of every step."""
    width = max(map(len, texts)) + 64
    table = torch.full((len(texts), width), -1)
    for row, text in enumerate(texts):
        table[row, : len(text)] = torch.tensor(text)
    for step in dllm.steps(model, requests, strategy):
        columns = step.window.columns.clamp(max=width - 1)
        right = step.guess.tokens == table[step.place].gather(1, columns)
        known = step.window.pending & (table[step.place].gather(1, columns) >= 0)
        yield step.guess.confidence[known], right[known]


def _measure_calibration(model: Any, share: float | None, count: int, kind: ProblemKind) -> Row:
    """Counts by bin: guesses, right ones, and their confidence added up."""
    asked = common.draw_problems(count, kind)
    if share is not None:
        rng = Random(f"calibration-{share}")
        pairs = [(_mask_true_text(model, p, share, rng), _encode_true_text(model, p)[1]) for p in asked]
        requests, texts = zip(*((r, t) for r, t in pairs if r is not None), strict=True)
        strategy = Strategy(Threshold(0.0), Whole(), NoCache())
    else:
        texts = tuple(_encode_true_text(model, p)[1] for p in asked)
        requests = tuple(Request(encode_prompt(model, p.prompt), common.NEW) for p in asked)
        blocks = Blocks(commit=True) if isinstance(model.geometry, BlockCausal) else Blocks()
        strategy = Strategy(Threshold(0.9), blocks, PrefixCache())
    found = list(_record_guesses(model, requests, strategy, texts))
    confidence, right = (torch.cat(parts).double() for parts in zip(*found, strict=True))
    place = (confidence * BINS).long().clamp(max=BINS - 1)
    zeros = torch.zeros(BINS, dtype=torch.float64)
    return {
        "strategy": repr(strategy),
        "guesses": torch.bincount(place, minlength=BINS).tolist(),
        "right": zeros.index_add(0, place, right).tolist(),
        "confidence": zeros.index_add(0, place, confidence).tolist(),
    }


def pool_bins(rows: list[Row], source: str) -> Row:
    """The bins of one source, all shares together, and the expected calibration error."""
    parts = {
        name: torch.tensor([row[name] for row in rows if row["source"] == source]).double().sum(0)
        for name in ("guesses", "right", "confidence")
    }
    gap = (parts["right"] - parts["confidence"]).abs().sum() / parts["guesses"].sum()
    return {"source": source, "ece": float(gap), **{name: part.tolist() for name, part in parts.items()}}


def _plot_calibration(found: list[Row], count: int, kind: ProblemKind, output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(
        2, 2, figsize=(10, 6.6), sharex=True, height_ratios=(3, 1), layout="constrained", squeeze=False
    )
    for (upper, lower), row in zip(panels.T, found, strict=True):
        full = [i for i, n in enumerate(row["guesses"]) if n >= 10]
        means = [row["confidence"][i] / row["guesses"][i] for i in full]
        shares = [row["right"][i] / row["guesses"][i] for i in full]
        bars = [common.compute_two_errors(s, row["guesses"][i]) for s, i in zip(shares, full, strict=True)]
        upper.plot([0, 1], [0, 1], color="0.6", label="calibrated")
        upper.errorbar(means, shares, bars, fmt="o-", capsize=3, label="measured")
        upper.set(title=f"{row['source']}: ECE {row['ece']:.3f}", ylim=(0, 1.02), xlim=(0, 1.02))
        lower.bar([(i + 0.5) / BINS for i in range(BINS)], row["guesses"], 0.9 / BINS, color="C0")
        lower.set(xlabel="confidence of the candidate", yscale="log")
    panels[0][0].set_ylabel("share of guesses that are right")
    panels[1][0].set_ylabel("guesses")
    panels[0][0].legend()
    figure.suptitle(f"Is confidence calibrated? {count} {kind.many}, bars of two standard errors")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    count: CountOption = 100,
    kind: KindOption = ProblemKind.word,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("calibration.jsonl"),
) -> None:
    """Compare confidence with how often candidates are the true token."""
    loaded: Any = common.load_model(model, threads)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    cells = [*((SOURCES[0], share) for share in SHARES), (SOURCES[1], None)]
    rows = [
        journal.row(
            {"source": source, "share": share, "kind": kind, "count": count},
            _measure_calibration,
            loaded,
            share,
            count,
            kind,
        )
        for source, share in cells
    ]
    found = [pool_bins(rows, source) for source in SOURCES]
    above = round(0.9 * BINS)
    common.print_table(
        console,
        ("guesses", "number", "right", "mean confidence", "ECE", "of bins from 0.93: right", "mean confidence"),
        [
            [
                r["source"], int(sum(r["guesses"])), sum(r["right"]) / sum(r["guesses"]),
                sum(r["confidence"]) / sum(r["guesses"]), r["ece"],
                sum(r["right"][above:]) / max(1, sum(r["guesses"][above:])),
                sum(r["confidence"][above:]) / max(1, sum(r["guesses"][above:])),
            ]
            for r in found
        ],
    )  # fmt: skip
    _plot_calibration(found, count, kind, output)


if __name__ == "__main__":
    typer.run(main)
