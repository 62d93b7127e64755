"""Output of a job: finished rows are written or printed, failures are reported, steps are drawn."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console

from dllm.errors import ConfigError, RequestError

from .error_messages import FAILED, INTERRUPTED, describe_os_error, print_error, print_message

if TYPE_CHECKING:
    from dllm.engine.results import Result
    from dllm.jobs import DecodeTask, Event, Job, JobEngine, Journal, PromptRow, RowProblem
    from dllm.tracing import Recorder

    from .live_display import LiveDisplay


@dataclass
class JobOutput:
    """Destination of a job's results and errors.

    Attributes:
        source: What messages about a row begin with: the file, or "prompt".
        many: The rows come from a file.
        quiet: No live view and no figures.
        live: A live view, on a terminal.
        failed: Whether a row failed so far.
        results: Results so far.
    """

    source: str
    many: bool
    quiet: bool
    live: bool
    failed: bool = False
    results: list[Result] = field(default_factory=list)

    def report(self, problems: list[RowProblem]) -> None:
        """Print what is wrong with rows of a file; raise it where there is only one prompt."""
        for problem in problems:
            self.failed = True
            if not self.many:
                raise RequestError(problem.message)
            print_error(f"{self.source}:{problem.line}: {problem.message}")

    def screen(self, tokenizer: Any, total: int, done: int, shows_rows: bool) -> LiveDisplay:
        """Make the live view.

        It is drawn on stdout for one prompt; for many rows on stderr, unless they appear on the same terminal.
        """
        from .live_display import LiveDisplay

        console = Console(stderr=self.many)
        shown = console.is_terminal and not self.quiet
        if not self.many:
            return LiveDisplay(console if shown and self.live else None, tokenizer)
        shown = shown and not (shows_rows and sys.stdout.isatty())
        canvas = self.live and sys.stdout.isatty()
        return LiveDisplay(console if shown else None, tokenizer, canvas, total, done)


@dataclass(frozen=True)
class TraceTarget:
    """File for the trace of a job.

    Attributes:
        path: The file.
        top: Candidates of each column that the trace keeps.
    """

    path: Path
    top: int = 0


def check_trace_target(path: Path | None, top: int) -> TraceTarget | None:
    """Check the place for a trace; None where no trace is wanted.

    Raises:
        ConfigError: There is a file at that place already, or no folder for it.
    """
    if path is None:
        if top:
            raise ConfigError(f"--trace-top {top}: candidates are kept in a trace; give --trace FILE too")
        return None
    if top < 0:
        raise ConfigError(f"--trace-top {top}: must be 0 (none) or more candidates")
    if path.exists():
        raise ConfigError(f"--trace {path} exists already: choose another name, or move the file away")
    if not path.parent.is_dir():
        raise ConfigError(f"--trace {path}: there is no folder {path.parent}")
    return TraceTarget(path, top)


def run_job(
    shown: JobOutput,
    engine: JobEngine,
    job: Job,
    rows: list[PromptRow],
    output: Path | None,
    made: dict[str, Any],
    tracing: TraceTarget | None = None,
) -> None:
    """Decode rows, and write each as soon as it is done.

    Args:
        shown: Destination of results and errors.
        engine: Engine that decodes; a trace needs the one of this process.
        job: Settings of all rows.
        rows: The rows.
        output: File of results; None prints them.
        made: Settings that decide the results, to be kept beside the file.
        tracing: Place for a trace.
    """
    from dllm.jobs import Journal, LocalEngine

    with ExitStack() as stack:
        journal = None if output is None else stack.enter_context(Journal(output, made))
        stack.enter_context(engine)
        tasks, problems = engine.tasks(job, rows)
        shown.report(problems)
        todo = tasks if journal is None else journal.resume(tasks)
        recorder = None
        if tracing is not None:
            assert isinstance(engine, LocalEngine)
            recorder, todo = _open_recorder(tracing, job.guided(engine.model), todo, stack)
        if journal is not None and journal.kept and not shown.quiet:
            print_message(f"{journal.kept} of {len(tasks)} rows are in {output} already", "dim")
        start = time.perf_counter()
        try:
            with shown.screen(engine.tokenizer, len(tasks), len(tasks) - len(todo), journal is None) as screen:
                _handle_events(shown, engine.decode(job, todo), journal, screen, recorder)
        except (KeyboardInterrupt, OSError) as error:
            if journal is None or isinstance(error, BrokenPipeError):
                raise
            # A pipe that is gone cannot be continued; a file can, so the message says how.
            kept = f"{journal.kept} of {len(tasks)} rows are kept in {output}: run the same command again to continue"
            what = "interrupted" if isinstance(error, KeyboardInterrupt) else describe_os_error(error)
            print_error(f"{what}; {kept}" if journal.regular else what)
            raise typer.Exit(INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED) from None
        seconds = time.perf_counter() - start
        if not shown.many:
            for result in shown.results:
                typer.echo(result.text)
                seconds = result.seconds
        if shown.results and not shown.quiet:
            from .result_summary import summarize_results

            print_message(summarize_results(shown.results, seconds))


def _open_recorder(
    tracing: TraceTarget, model: Any, tasks: list[DecodeTask], stack: ExitStack
) -> tuple[Recorder, list[DecodeTask]]:
    """Open a recorder, which the stack closes, and make plans ask for the probabilities that it is to keep."""
    from dllm.tracing import Recorder, request_probabilities

    recorder = stack.enter_context(Recorder(tracing.path, model, tracing.top))
    return recorder, [task._replace(plan=request_probabilities(task.plan)) for task in tasks] if tracing.top else tasks


def _handle_events(
    shown: JobOutput,
    events: Iterator[Event],
    journal: Journal | None,
    screen: LiveDisplay,
    recorder: Recorder | None = None,
) -> None:
    """Draw steps, write finished rows and report failed ones, as the events of a job arrive."""
    from dllm.jobs import BatchStep, RowDone, RowProblem, format_result_line

    batch: Any = None
    for event in events:
        if isinstance(event, BatchStep):
            if recorder is not None:
                if event.batch is not batch:
                    batch = event.batch
                    recorder.begin([task.request for task in batch], batch[0].plan)
                recorder.add(event.step)
            screen.show(event.step)
        elif isinstance(event, RowDone):
            shown.results.append(event.result)
            if journal is not None:
                journal.write(event)
            elif shown.many:
                sys.stdout.write(format_result_line(*event).decode("ascii"))
                sys.stdout.flush()
            screen.advance()
        elif shown.many:
            shown.report([RowProblem(event.task.row.line, str(event.error))])
        else:
            raise event.error
