"""Display of a sweep while it runs, and of its table, for `dllm sweep` and `dllm tune`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from .error_messages import INTERRUPTED, print_error
from .listing import WIDE

if TYPE_CHECKING:
    from dllm.sweeps import Sweep

    from .engine_options import OpenEngine


def run_sweep_with_progress(sweep: Sweep, folder: Path, open_engine: OpenEngine, quiet: bool) -> bool:
    """Decode the missing cells of a sweep with progress on stderr; return whether some cell or row failed."""
    from dllm.sweeps import CellFailed, CellFinished, CellRowDecoded, CellStarted, run_sweep

    sweep.check()
    failed = False
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=quiet or not console.is_terminal) as bars:
        kept = _find_finished_cells(sweep, folder)
        whole = bars.add_task("cells", total=len(sweep.cells), completed=len(kept))
        part = bars.add_task("rows", total=None)
        try:
            for event in run_sweep(sweep, folder, lambda c: open_engine(c.name, c.loading())):
                if isinstance(event, CellStarted):
                    bars.reset(part, description=str(event.cell), total=event.rows, completed=event.kept)
                elif isinstance(event, CellRowDecoded):
                    bars.advance(part)
                elif isinstance(event, CellFinished):
                    for problem in event.problems:
                        failed = True
                        print_error(f"{event.cell}: {event.cell.questions.path}:{problem.line}: {problem.message}")
                elif isinstance(event, CellFailed):
                    failed = True
                    print_error(f"{event.cell}: {event.error}")
                if isinstance(event, CellFinished | CellFailed):
                    bars.advance(whole)
        except KeyboardInterrupt:
            print_error(f"interrupted; what is done is kept in {folder}: run the same command again to continue")
            raise typer.Exit(INTERRUPTED) from None
    return failed


def print_cell_table(rows: Sequence[Mapping[str, Any]], best: Sequence[Mapping[str, Any]] = ()) -> None:
    """Print the table of cells on stderr; those of the Pareto front are marked."""
    many = [name for name in ("model", "prompts") if len({row[name] for row in rows}) > 1]
    many += [name for name in ("max_new_tokens", "seed", "batch_size") if len({row[name] for row in rows}) > 1]
    table = Table(
        "", *many, "strategy", "accuracy", "95 %", "tokens/forward", "tokens/s", "certified", header_style="bold"
    )
    for row in rows:
        front = any(row is one for one in best)
        interval = "–" if row["accuracy"] is None else f"{row['accuracy_low']:.2f}–{row['accuracy_high']:.2f}"
        words = (escape(str(row[name])) for name in (*many, "name"))
        figures = (f"{row['tokens_per_forward']:.2f}", f"{row['tokens_per_second']:.1f}")
        shares = _format_share(row["accuracy"]), _format_share(row["certified_share"])
        style = "bold" if front else ""
        table.add_row("*" if front else "", *words, shares[0], interval, *figures, shares[1], style=style)
    console = Console(stderr=True)
    (console if console.is_terminal else Console(stderr=True, width=WIDE)).print(table)


def _format_share(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def print_cell_list(sweep: Sweep, folder: Path) -> None:
    """Print the cells of a sweep on stdout, one a line, and which of them are done."""
    kept = _find_finished_cells(sweep, folder)
    for cell in sweep.cells:
        job = cell.job
        settings = f"max_new_tokens={job.max_new_tokens} seed={job.seed} batch_size={job.batch_size}"
        typer.echo(f"{cell.key}  {'done' if cell.key in kept else 'to do'}  {cell} · {settings}")


def _find_finished_cells(sweep: Sweep, folder: Path) -> set[str]:
    """Return the keys of the cells that are in the table already."""
    from dllm.sweeps import read_table
    from dllm.sweeps.table import NAME

    found = {row["cell"] for row in read_table(folder)} if (folder / NAME).exists() else set()
    return found & {cell.key for cell in sweep.cells}
