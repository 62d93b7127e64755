"""Do keys and values stay as they are from step to step, so that a cache may keep them?

Question: the observation behind Fast-dLLM's caches: keys and values of adjacent denoising steps within a block are
          nearly the same, of the prompt (prefix cache) and of the masked columns behind the block (dual cache). For
          which columns does it hold, and how fast does it fade with the distance of steps?
Method:   greedy decoding without a cache, 32 tokens one a step, the most confident first; every layer's keys and values
          of every forward, before the rotation by position (which is the same in every step), are compared column by
          column between any two steps: cosine, averaged over layers, keys and values, columns and prompts. Three
          models: the embedded one as it is (attention in blocks; its second block is decoded, columns 32 to 63); the
          same made to attend everywhere, in blocks of 8 behind the prompt, as LLaDA decodes; with `--encoder FOLDER`
          AntiBERTy (experiments/antiberty.py), a model that was trained with attention everywhere, filling 32 masked
          residues.
Read:     heat maps: 1 (bright) means that a cache filled at one step is right at the other; the diagonal is 1 by
          itself. "given": prompt, and finished blocks. "still masked" and "already decided" are columns that were so at
          both steps. The last panel is the mean over steps that lie so many apart, also of the columns that were
          decided in between: the ones that a cache gets wrong unless it runs its window anew.
Run:      python -m experiments.kv_similarity --count 8 --encoder runs/antiberty \
              --output experiments/results/kv_similarity.jsonl
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Annotated, Any

import torch
import typer
from einops import rearrange, repeat
from torch import Tensor

import dllm
from dllm import Blocks, NoCache, Request, Strategy, TopK, Whole
from dllm.prompts import encode_prompt
from dllm.types import Bidirectional, Scheduler
from experiments import common
from experiments.antibody_sequences import ANTIBODIES, encode_sequence
from experiments.common import CountOption, ModelOption, OutputOption, Row, ThreadsOption

STEPS = 32
PROJECTIONS = ("k_proj", "v_proj", "key", "value")
GROUPS = ("given", "still masked", "already decided", "decided in between")


@contextmanager
def _record_projections(network: Any) -> Iterator[list[Tensor]]:
    """Record the outputs (r, t, d) of the key and value projections in the forwards to come, in order of layers."""
    seen: list[Tensor] = []
    layers = [m for name, m in network.named_modules() if name.rsplit(".", 1)[-1] in PROJECTIONS]
    handles = [layer.register_forward_hook(lambda _, __, out: seen.append(out)) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _measure_similarity(model: Any, request: Request, scheduler: Scheduler, start: int) -> tuple[Tensor, Tensor]:
    """Cosine (s, s, t) of keys and values between the last `STEPS` steps of one row, and what was pending (s, t).

    start  first column to be decided in those steps
    """
    found, pending = [], []
    with _record_projections(model.network) as seen:
        for step in dllm.steps(model, [request], Strategy(TopK(k=1), scheduler, NoCache())):
            if int(step.window.block_end[0]) > start:
                found.append(torch.stack([torch.nn.functional.normalize(out[0], dim=-1) for out in seen]))
                assert step.window.undecided is not None, "block schedulers say what is undecided"
                pending.append(step.window.undecided[0])
            seen.clear()
    t = min(kept.shape[1] for kept in found)
    kept = torch.stack([state[:, :t] for state in found])
    cosine = torch.einsum("i l t d, j l t d -> i j t", kept, kept) / kept.shape[1]
    return cosine, torch.stack(pending)[:, :t]


def _sum_by_group(cosine: Tensor, pending: Tensor, given: Tensor) -> Tensor:
    """Sums and counts (2, g, s, s) of the cosine over each group's columns."""
    s = len(pending)
    before, after = rearrange(pending, "i t -> i 1 t"), rearrange(pending, "j t -> 1 j t")
    fixed = repeat(given, "t -> i j t", i=s, j=s)
    members = torch.stack([fixed, before & after, ~before & ~after & ~fixed, before ^ after])
    return torch.stack([(members * cosine).sum(-1), members.sum(-1).to(cosine.dtype)])


def _make_cases(model: Any, count: int) -> dict[str, tuple[Any, Scheduler, list[tuple[Request, int]]]]:
    """Model, scheduler and requests with their first column, by name."""
    prompts = [encode_prompt(model, p.prompt) for p in common.draw_problems(20 * count)]
    short = [p for p in prompts if len(p) <= STEPS][:count]
    everywhere = replace(model, geometry=Bidirectional())
    return {
        "embedded: attention in blocks": (
            model,
            Blocks(),
            [(Request(p, 2 * STEPS - len(p), stop_ids=()), STEPS) for p in short],
        ),
        "embedded, made to attend everywhere": (
            everywhere,
            Blocks(8),
            [(Request(p, STEPS, stop_ids=()), len(p)) for p in short],
        ),
    }


def _make_encoder_case(model: Any, count: int) -> tuple[Any, Scheduler, list[tuple[Request, int]]]:
    rng, requests = Random("similarity"), []
    for sequence in list(ANTIBODIES.values())[:count]:
        ids = encode_sequence(model, sequence)
        holes = tuple(sorted(rng.sample(range(1, len(ids) - 1), STEPS)))
        requests.append((Request(ids, 0, stop_ids=(), holes=holes), 0))
    return model, Whole(), requests


def _measure_case(model: Any, scheduler: Scheduler, requests: Sequence[tuple[Request, int]]) -> Row:
    """Mean cosine between steps by group of columns, as matrices and by the distance of steps."""
    total = torch.zeros(2, len(GROUPS), STEPS, STEPS)
    for request, start in requests:
        cosine, pending = _measure_similarity(model, request, scheduler, start)
        given = torch.ones(cosine.shape[-1], dtype=torch.bool)
        given[list(_find_decided_columns(request, start))] = False
        total += _sum_by_group(cosine, pending, given)
    mean = total[0] / total[1]
    lags = [
        [float(total[0, g].diagonal(lag).sum() / total[1, g].diagonal(lag).sum()) for lag in range(1, STEPS - 1)]
        for g in range(len(GROUPS))
    ]
    return {
        "strategy": repr(Strategy(TopK(k=1), scheduler, NoCache())),
        "prompts": len(requests),
        "matrices": {
            name: [[None if x != x else round(x, 3) for x in line] for line in mean[g].tolist()]
            for g, name in enumerate(GROUPS[:3])
        },
        "lags": {name: [round(x, 4) if x == x else None for x in lags[g]] for g, name in enumerate(GROUPS)},
    }


def _find_decided_columns(request: Request, start: int) -> Sequence[int]:
    """The columns that the steps under study decide."""
    return request.holes or range(start, request.limit)


def _plot_similarity(rows: list[Row], output: Path) -> None:
    pyplot = common.import_pyplot()
    figure, panels = pyplot.subplots(
        len(rows), 4, figsize=(14, 3.3 * len(rows)), layout="constrained", squeeze=False, width_ratios=(1, 1, 1, 1.3)
    )
    low = min(x for row in rows for lags in row["lags"].values() for x in lags if x is not None)
    for row, line in zip(rows, panels, strict=True):
        for panel, group in zip(line, GROUPS[:3], strict=False):
            values = [[float("nan") if x is None else x for x in steps] for steps in row["matrices"][group]]
            image = panel.imshow(values, origin="lower", vmin=low, vmax=1, cmap="viridis")
            panel.set_title(f"{group} columns", fontsize=10)
            panel.set(xlabel="step")
            panel.grid(False)
        for group, style in zip(GROUPS, ("-", "--", ":", "-."), strict=True):
            lags = row["lags"][group]
            line[3].plot(range(1, len(lags) + 1), lags, style, linewidth=2, label=group)
        line[0].set_ylabel(f"{row['case'].replace(': ', ':{}').replace(', ', ',{}').format(chr(10))}\n\nstep")
        line[3].set(xlabel="steps apart", ylabel="mean cosine", ylim=(low - 0.02, 1.005))
        line[3].legend(fontsize=8)
    figure.colorbar(image, ax=panels[:, 2], label="cosine of keys and values", shrink=0.7)
    figure.suptitle("Keys and values of two denoising steps: how alike are they?")
    common.save_figure(figure, output)


def main(
    model: ModelOption = "embedded",
    encoder: Annotated[Path | None, typer.Option(help="AntiBERTy, from experiments.antiberty.")] = None,
    count: CountOption = 8,
    threads: ThreadsOption = 1,
    output: OutputOption = Path("kv_similarity.jsonl"),
) -> None:
    """Compare keys and values of every two steps of a decode."""
    loaded: Any = common.load_model(model, threads)
    journal, console = common.MeasurementJournal(output, common.describe_setup(loaded, threads)), common.make_console()
    found = _make_cases(loaded, count)
    if encoder is not None:
        found["AntiBERTy: attention everywhere"] = _make_encoder_case(dllm.load(encoder), count)
    rows = [journal.row({"case": name, "count": count}, _measure_case, *case) for name, case in found.items()]
    common.print_table(
        console,
        ("model", "columns", "1 step apart", "4 apart", "8 apart", "16 apart"),
        [[r["case"], group, *(r["lags"][group][lag - 1] for lag in (1, 4, 8, 16))] for r in rows for group in GROUPS],
        "mean cosine of keys and values",
    )
    _plot_similarity(rows, output)


if __name__ == "__main__":
    typer.run(main)
