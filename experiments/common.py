"""Common code of the experiments: problems, one measured run, a journal that resumes, tables and plots."""

from __future__ import annotations

import io
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from enum import StrEnum
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console
from rich.table import Column, Table

import dllm
from dllm import Blocks, DualCache, NoCache, PrefixCache, Strategy, Whole
from dllm.metrics import Provenance, Totals
from dllm.models import EncoderModel
from dllm.prompts import make_requests
from dllm.types import BlockCausal, Cache, Policy, Scheduler
from experiments.embedded_text import Example, generate_examples, is_correct

NEW = 96
"""New tokens at most: every answer of the embedded model fits."""

Row = dict[str, Any]


class ProblemKind(StrEnum):
    """Kinds of problems, which `experiments/embedded_text.py` generates."""

    word = "word"
    sum = "sum"

    @property
    def many(self) -> str:
        return {"word": "word problems", "sum": "sums"}[self]


ModelOption = Annotated[str, typer.Option("--model", help="Checkpoint to decode with.")]
CountOption = Annotated[int, typer.Option("--count", help="Held-out problems.")]
KindOption = Annotated[
    ProblemKind, typer.Option("--kind", help="Word problems, or sums: bold decoding costs more there.")
]
ThreadsOption = Annotated[int, typer.Option("--threads", help="CPU threads.")]
OutputOption = Annotated[
    Path,
    typer.Option("--output", help="JSON lines; what is there is not measured again. The plot lies beside it, as .png."),
]
RepeatsOption = Annotated[int, typer.Option("--repeats", help="Timed runs of each, in turn.")]


def load_model(name: str, threads: int) -> Any:
    """A model, and no more threads than asked for."""
    torch.set_num_threads(threads)
    return dllm.load(name)


def draw_problems(count: int, kind: ProblemKind = ProblemKind.word) -> list[Example]:
    """The first held-out problems of a kind, of the seed that all reports use."""
    return list(islice(generate_examples("report", held=True, kinds=(kind,)), count))


def make_strategy(model: Any, policy: Policy) -> Strategy:
    """A policy over blocks of 32 (or the model's own) and the boldest cache that is exact, or usual, for the model."""
    scheduler: Scheduler = Blocks(commit=True)
    cache: Cache = PrefixCache()
    if isinstance(model, EncoderModel):
        scheduler, cache = Whole(), NoCache()
    elif not isinstance(model.geometry, BlockCausal):
        scheduler, cache = Blocks(), DualCache()
    return Strategy(policy, scheduler, cache)


def measure_with_results(
    model: Any, asked: Sequence[Example], strategy: Strategy | Any, batch_size: int | None = None, new: int = NEW
) -> tuple[Row, list[dllm.Result]]:
    """Accuracy and cost of one strategy over problems, and its results."""
    requests = make_requests(model, [p.prompt for p in asked], new)
    start, busy = time.perf_counter(), time.process_time()
    results = dllm.decode(model, requests, strategy, batch_size=batch_size)
    seconds, processor = time.perf_counter() - start, time.process_time() - busy
    solved = sum(is_correct(p, r.text or "") for p, r in zip(asked, results, strict=True))
    totals = Totals.of(results, seconds)
    row = {"accuracy": solved / len(asked), **totals.row(), "processor": processor, "strategy": repr(strategy)}
    return row, results


def measure_strategy(
    model: Any, asked: Sequence[Example], strategy: Strategy | Any, batch_size: int | None = None, new: int = NEW
) -> Row:
    """Accuracy and cost alone."""
    return measure_with_results(model, asked, strategy, batch_size, new)[0]


def describe_setup(model: Any, threads: int) -> Row:
    """Collect the provenance of a row. All decoding here is greedy; seeds are 0 and up, by row."""
    return {
        **asdict(Provenance.of(model)),
        "machine": platform.processor() or platform.machine(),
        "threads": threads,
        "seed": 0,
    }


class MeasurementJournal:
    """JSON lines, one a measurement. What an earlier run measured under the same key is not measured again."""

    def __init__(self, path: Path, facts: Row) -> None:
        self.path, self.facts = path, facts
        self.known = [*read_rows(path)]
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size and not path.read_bytes().endswith(b"\n"):
            with path.open("a") as file:
                file.write("\n")  # a run was killed in the middle of a line

    def row(self, key: Row, measure: Callable[..., Row], *args: Any) -> Row:
        """The measurement with this key, on this model, with these versions; made and written if it is not there."""
        return self.rows([key], lambda: [measure(*args)])[0]

    def rows(self, keys: Sequence[Row], measure: Callable[..., Sequence[Row]], *args: Any) -> list[Row]:
        """Measure what belongs together, side by side: all of it unless all of it is in the journal."""
        same = {name: self.facts[name] for name in ("model", "versions", "device")}
        known = [self.find({**key, **same}) for key in keys]
        if all(known):
            return [row for row in known if row is not None]
        rows = [{**key, **found, **self.facts} for key, found in zip(keys, measure(*args), strict=True)]
        with self.path.open("a") as file:
            file.write("".join(json.dumps(row) + "\n" for row in rows))
        self.known += rows
        return rows

    def find(self, key: Row) -> Row | None:
        return next((row for row in self.known if all(row.get(n) == value for n, value in key.items())), None)


def read_rows(path: Path) -> Iterable[Row]:
    """Rows of a file; a line that was cut short is left out."""
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def digest_outputs(results: Sequence[dllm.Result]) -> list[str]:
    """A short name for each output: equal tokens, equal names."""
    return [sha256(repr(r.output_ids).encode()).hexdigest()[:8] for r in results]


def get_tokens_per_second(row: Row) -> float:
    """Generated tokens per second: of the processor where one thread computes, since other work on the machine does not
    change that; by the clock otherwise."""
    alone = str(row["device"]).startswith("cpu") and row["threads"] == 1
    return float(row["tokens"] / row["processor" if alone else "seconds"])


def compute_speedup(ours: Sequence[Row], base: Sequence[Row]) -> float:
    """Median of the ratios of throughput, run by run, of runs that were timed in turn."""
    return statistics.median(
        get_tokens_per_second(a) / get_tokens_per_second(b) for a, b in zip(ours, base, strict=True)
    )


def compute_two_errors(share: float, count: int) -> float:
    """Two standard errors of a share of `count` independent cases (Agresti and Coull: never zero)."""
    middle = (share * count + 2) / (count + 4)
    return 2 * math.sqrt(middle * (1 - middle) / (count + 4))


def make_console() -> Console:
    """Make the console for tables: stderr, wide enough where it is not a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        console.width = 130
    return console


def print_table(
    console: Console, columns: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None
) -> None:
    """Print rows; numbers stand right, floats have three digits."""
    shown = [[cell if isinstance(cell, str) else _format_number(cell) for cell in row] for row in rows]
    drawn = Table(*(Column(c, justify="left" if i == 0 else "right") for i, c in enumerate(columns)), title=title)
    for row in shown:
        drawn.add_row(*row)
    console.print(drawn)


def _format_number(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def import_pyplot() -> Any:
    """`matplotlib.pyplot` that draws into files."""
    try:
        import matplotlib
    except ImportError:
        raise typer.BadParameter("the plot needs matplotlib: pip install 'dllm[plot]'") from None
    matplotlib.use("agg")
    from matplotlib import pyplot

    pyplot.rcParams.update({"axes.grid": True, "grid.alpha": 0.3, "axes.spines.top": False, "axes.spines.right": False})
    return pyplot


def save_figure(figure: Any, output: Path) -> Path:
    """Write a figure beside its JSON lines; the file there is whole at any time."""
    from PIL import Image

    path = output.with_suffix(".png")
    aside = path.with_name(f".{path.name}")
    drawn = io.BytesIO()
    figure.savefig(drawn, dpi=100, format="png")
    import_pyplot().close(figure)
    with Image.open(drawn) as image:  # 256 colours show all there is in a third of the bytes
        image.convert("RGB").quantize(256).save(aside, format="PNG", optimize=True)
    aside.replace(path)
    return path
