"""`dllm replay`: a trace played again in the terminal, made into a page, or checked."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from dllm.errors import ConfigError

from .error_messages import FAILED, print_error, print_message, report_errors

if TYPE_CHECKING:
    from dllm.tracing import Trace

REPLAY_EXAMPLES = """[bold]Examples[/bold]

dllm decode "Tom has 3 apples and buys 4 more. How many has he?" --trace run.jsonl --trace-top 5

dllm replay run.jsonl

dllm replay run.jsonl --html run.html

dllm replay run.jsonl --check"""


def replay(
    file: Annotated[Path, typer.Argument(help="A trace, written by `dllm decode --trace FILE`.")],
    request: Annotated[int, typer.Option(help="Which request to show, from 1.", min=1)] = 1,
    speed: Annotated[float, typer.Option(help="Steps a second; on a terminal + and - change it.", min=0.01)] = 4.0,
    html: Annotated[
        Path | None, typer.Option(help="Write one page that replays all of it, and that opens from disk.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Recompute certificates and results from what was recorded; exit 1 if wrong."),
    ] = False,
) -> None:
    """Play a trace again: what each step decided, in the order in which it did.

    Keys on a terminal: space stops and goes on, the arrows or p and n step, + and - change the speed, q leaves. Without
    a terminal every step is a line.
    """
    with report_errors():
        from dllm.tracing import read_trace

        try:
            trace = read_trace(file)
        except FileNotFoundError:
            raise ConfigError(f"{file}: no such file; record one with `dllm decode --trace {file}`") from None
        if check:
            _check_trace(trace)
        if html is not None:
            _write_replay_page(trace, html)
        if not check and html is None:
            _show_request(trace, request, speed)


def _check_trace(trace: Trace) -> None:
    """Print what a check finds; a fault is a failure."""
    from dllm.tracing import check_trace

    found = check_trace(trace)
    for fault in found.faults[:20]:
        print_error(fault)
    if len(found.faults) > 20:
        print_error(f"and {len(found.faults) - 20} more")
    typer.echo(
        f"{found.steps} steps: {found.parallel} decided two tokens or more, {found.certified} of them certified; "
        f"{found.results} results; {len(found.faults)} faults"
    )
    if found.faults:
        raise typer.Exit(FAILED)


def _write_replay_page(trace: Trace, path: Path) -> None:
    """Write the page to a place where nothing is yet; the file appears when it is whole."""
    from dllm.tracing import render_trace_page

    if path.exists():
        raise ConfigError(f"--html {path} exists already: choose another name, or move the file away")
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        aside.write_text(render_trace_page(trace), encoding="utf-8")
        aside.rename(path)
    finally:
        aside.unlink(missing_ok=True)
    print_message(f"{path}: open it in a browser", "dim")


def _show_request(trace: Trace, request: int, speed: float) -> None:
    """Show one request: live on a terminal, else a line a step."""
    from .trace_player import TracePlayer, format_steps, make_frames

    places = [(run, place) for run in trace.runs for place in range(len(run.requests))]
    if not 1 <= request <= len(places):
        raise ConfigError(f"--request {request}: the trace has {len(places)} requests")
    run, place = places[request - 1]
    if sys.stdout.isatty() and sys.stdin is not None and sys.stdin.isatty():
        TracePlayer(make_frames(run, place), trace.pieces, Console(), speed).run()
    else:
        for line in format_steps(run, place, trace.pieces):
            typer.echo(line)
    answers = [result for result in run.results if result["request"] == place]
    for result in answers:
        typer.echo(result["text"] if result["text"] is not None else " ".join(map(str, result["output_ids"])))
    if not answers:
        print_message("this request was not finished", "yellow")
