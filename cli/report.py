"""`dllm report`: a sweep's table as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dllm.errors import ConfigError

from .error_messages import print_message, report_errors

MARK = "default-src 'none'"
"""Text that every page of ours holds, so that one may be replaced and nothing else is overwritten."""


def report(
    results: Annotated[Path, typer.Argument(help="A sweep's folder, or its table.", show_default=False)],
    html: Annotated[Path, typer.Option(help="The page to write; one written before is replaced.")] = Path(
        "report.html"
    ),
    title: Annotated[str | None, typer.Option(help="Heading. Default: the folder's name.", show_default=False)] = None,
) -> None:
    """Draw a sweep: accuracy against tokens per forward and per second with their Pareto fronts, and a table.

    The page is one file without outside assets, light or dark as its reader prefers.
    """
    with report_errors():
        from dllm.sweeps import read_table
        from dllm.sweeps.report import render_sweep_page, write_sweep_page

        rows = read_table(results)
        if html.exists() and not (html.is_file() and MARK in html.read_text("utf-8", errors="replace")):
            raise ConfigError(f"--html {html}: is there already and no report of ours; choose another name")
        name = (results if results.is_dir() else results.parent).resolve().name
        write_sweep_page(render_sweep_page(rows, title or f"Sweep {name.removesuffix('.results')}"), html)
        print_message(f"{len(rows)} cells in {html}", "dim")
