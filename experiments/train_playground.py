"""Train the embedded models: an autoregressive one from nothing, and from it one of each diffusion format.

Question: can models of three million parameters, trained for some hours on two CPU cores, do tasks on which decoding
          strategies differ?
Method:   batches of generated examples (`experiments.playground_text`), never the same twice, packed without seeing
          each other into rows of 128 columns. `ar`: next-token prediction with a Llama without biases. `v2`: from it
          Fast-dLLM v2's block diffusion as a Qwen2 whose biases start at zero. `llada`: from it masked diffusion with
          attention both ways. Muon, bfloat16 autocast, and of the weights their running average. The learning rate
          falls to zero at the end of a time that is given, since how fast a shared machine runs is not known before.
Read:     one JSON line every fifty updates on stdout: update, minutes, learning rate, loss a token, positions a second.
          OUT/checkpoint goes on where a stopped run stood; OUT/model is the average in Hub format, rewritten with it.
Run:      python -m experiments.train_playground ar --out runs/ar --minutes 40
          python -m experiments.train_playground v2 --out runs/v2 --start runs/ar/model --minutes 60
          python -m experiments.train_playground llada --out runs/llada --start runs/ar/model --minutes 60
"""

from __future__ import annotations

import json
import signal
import sys
import time
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from random import Random
from typing import Annotated

import torch
import typer

from dllm.training.card import format_command_line
from dllm.training.noise import IGNORE
from dllm.training.objective import compute_view_loss
from dllm.training.tokenizer import MASK
from experiments.playground_batches import Batches, Stage, make_objective
from experiments.playground_run import Progress, TrainingRun, open_start


@dataclass(frozen=True)
class Length:
    """The length of a run: a number of seconds, or a number of updates if one is given."""

    seconds: float
    updates: int | None = None

    def share(self, progress: Progress) -> float:
        """Compute the share of the run that is done; 1 at its end."""
        if self.updates is not None:
            return progress.update / max(1, self.updates)
        return progress.seconds / max(1e-9, self.seconds)


def rate_at(share: float, update: int, peak: float, decay: float, warmup: int = 100) -> float:
    """Compute the learning rate: a warm-up, then the peak, then a fall to zero over the last `decay` of the time."""
    return peak * min(1.0, (update + 1) / warmup, max(0.0, 1 - share) / decay)


def main(
    stage: Annotated[Stage, typer.Argument(help="next-token prediction, Fast-dLLM v2's format or LLaDA's")],
    out: Annotated[Path, typer.Option(help="folder of the run; one that exists is gone on with")],
    start: Annotated[Path | None, typer.Option(help="model folder of an `ar` run to start from")] = None,
    minutes: Annotated[float, typer.Option(help="minutes of training in all, over all sittings")] = 40.0,
    until: Annotated[str | None, typer.Option(help="end at this local time, HH:MM, instead")] = None,
    updates: Annotated[int | None, typer.Option(help="end after so many updates instead")] = None,
    lr: Annotated[float, typer.Option(help="peak learning rate")] = 3e-3,
    decay: Annotated[float, typer.Option(help="share of the time over which the rate falls to zero")] = 0.5,
    average: Annotated[float, typer.Option(help="share of the running average that an update keeps")] = 0.998,
    rows: Annotated[int, typer.Option(help="rows of 128 columns an update")] = 16,
    width: Annotated[int, typer.Option(help="width, a multiple of 32")] = 192,
    layers: Annotated[int, typer.Option(help="layers")] = 4,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 2,
    seed: Annotated[int, typer.Option(help="text, weights and noise")] = 0,
    save_every: Annotated[float, typer.Option(help="minutes between checkpoints")] = 2.0,
) -> None:
    """Train one stage, or continue its training."""
    torch.set_num_threads(threads)
    torch.manual_seed(seed)
    out.mkdir(parents=True, exist_ok=True)
    network, tokenizer = open_start(out, stage, start, width, layers)
    run = TrainingRun(
        out,
        stage,
        network,
        tokenizer,
        average,
        format_command_line(["python -m experiments.train_playground", *sys.argv[1:]]),
    )
    total = minutes * 60 if until is None else run.progress.seconds + _seconds_until(until)
    train(run, Batches(tokenizer, stage, rows, seed), Length(total, updates), lr, decay, save_every * 60, seed)


def train(
    run: TrainingRun, batches: Batches, length: Length, peak: float, decay: float, save_every: float, seed: int
) -> None:
    """Train to the end of the run or until SIGTERM; in both cases the last update is saved."""
    mask_id = run.tokenizer.convert_tokens_to_ids(MASK)
    progress, saved, records = run.progress, run.progress.seconds, []
    stopped: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: stopped.append(number))
    run.network.train()
    while length.share(progress) < 1 and not stopped:
        start = time.perf_counter()
        packed, objective = batches[progress.update], make_objective(run.stage, Random(f"{seed}-{progress.update}"))
        noise = objective.noise(packed, torch.Generator().manual_seed(seed * 1_000_003 + progress.update))
        view = objective.view(packed, noise, mask_id)
        with torch.autocast("cpu", torch.bfloat16):
            loss = compute_view_loss(run.network, view, objective.attention_block)
        loss = loss / max(1, int((view["labels"] != IGNORE).sum()))
        rate = rate_at(length.share(progress), progress.update, peak, decay)
        run.step(loss, rate)
        seconds = time.perf_counter() - start
        progress.seconds += seconds
        records.append((loss.item(), view["input_ids"].numel(), seconds))
        if len(records) == 50:
            losses, positions, times = (sum(part) for part in zip(*records, strict=True))
            records = []
            line = {"update": progress.update, "minutes": round(progress.seconds / 60, 2), "lr": round(rate, 6)}
            line |= {"loss": round(losses / 50, 4), "positions_per_second": round(positions / times)}
            sys.stdout.write(json.dumps(line) + "\n")
            sys.stdout.flush()
        if progress.seconds - saved > save_every:
            run.save()
            saved = progress.seconds
    run.save()
    signal.signal(signal.SIGTERM, handler)


def _seconds_until(clock: str) -> float:
    """Compute the seconds from now until a local time of today."""
    hour, minute = map(int, clock.split(":"))
    return max(0.0, (datetime.now().replace(hour=hour, minute=minute, second=0) - datetime.now()).total_seconds())


if __name__ == "__main__":
    typer.run(main)
