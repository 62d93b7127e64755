"""`dllm sweep`: a grid of strategies × prompts × models from a YAML file, decoded cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .engine_options import CpusPerWorkerOption, EngineOption, GpusPerWorkerOption, WorkersOption, choose_engine
from .error_messages import FAILED, print_message, report_errors

SWEEP_EXAMPLES = """[bold]A sweep[/bold] is a YAML file; lists make a grid:

models: [[embedded, ./my-checkpoint]]

prompts: [[word-problems, {file: gsm8k_test.jsonl, template: "{question}", limit: 100}]]

max_new_tokens: 96

strategies: [[{policy: threshold, tau: [[0.6, 0.8, 0.9]], cache: [[none, prefix]]}, {recipe: fast_dllm_v2}]]

Strategies are given by the options of `dllm decode`. A prompt line may have an `answer`, compared by
`check`: number (the one behind ####), last-number, exact, contains, regex.

[bold]Results[/bold]: FOLDER/table.jsonl, a row a cell, and FOLDER/samples, a file a cell. Run again it continues.
`dllm report FOLDER --html page.html` draws them."""


def sweep(
    file: Annotated[Path, typer.Argument(help="The sweep: a YAML file.", metavar="SWEEP.yaml", show_default=False)],
    output: Annotated[
        Path | None, typer.Option(help="Folder of the results. Default: SWEEP.results beside the file.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells, check them, decode none.")] = False,
    limit: Annotated[int | None, typer.Option(help="Only the first so many rows of every set of prompts.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress and no table.")] = False,
    engine: EngineOption = "local",
    workers: WorkersOption = None,
    cpus_per_worker: CpusPerWorkerOption = None,
    gpus_per_worker: GpusPerWorkerOption = None,
) -> None:
    """Decode a grid of strategies × prompts × models, and count accuracy and speed of every cell.

    All cells are checked before any work. A sweep that is interrupted or killed and run again goes on where it stopped;
    one whose file has grown decodes only what is new.
    """
    with report_errors():
        from dllm.sweeps import pareto_front, read_sweep, read_table

        from .sweep_display import print_cell_list, print_cell_table, run_sweep_with_progress

        found = read_sweep(file, limit)
        folder = file.with_suffix(".results") if output is None else output
        if dry_run:
            found.check()
            print_cell_list(found, folder)
            return
        failed = run_sweep_with_progress(
            found, folder, choose_engine(engine, workers, cpus_per_worker, gpus_per_worker), quiet
        )
        keys = {cell.key for cell in found.cells}
        rows = [row for row in read_table(folder) if row["cell"] in keys]
        if rows and not quiet:
            scored = [row for row in rows if row["accuracy"] is not None]
            print_cell_table(rows, pareto_front(scored, lambda r: r["tokens_per_forward"], lambda r: r["accuracy"]))
            print_message(f"{len(rows)} of {len(found.cells)} cells are in {folder}: dllm report {folder}", "dim")
        if failed:
            raise typer.Exit(FAILED)
