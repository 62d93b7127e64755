"""The figures and the state of a run in HTML, in the words of `dllm.metrics`."""

from __future__ import annotations

from typing import NamedTuple

from dllm import metrics
from dllm.integrations.web.escaping import escape_html
from dllm.integrations.web.frames import AnswerFrame
from dllm.integrations.web.runs import AnswerRun, RunStatus

MEANINGS = {
    "tokens": "generated tokens, up to and with the first end token",
    "tokens/s": "generated tokens per second of wall time, decoding alone",
    "NFE": "number of forwards of the model until the stop condition",
    "TPF": "generated tokens per forward",
    "first token": "seconds until the first token of the text was decided; those behind it may come earlier",
    "seconds": "wall time from the first step to the last decision",
    "certified": "share of the tokens committed in parallel whose commit provably equals greedy joint decoding",
}


class _RunFigures(NamedTuple):
    """Figures of a run.

    Attributes:
        tokens: Generated tokens.
        nfe: Forwards.
        seconds: Wall time.
        first: Seconds until the first token; None while it is not decided.
        certified: Certified share; None where nothing was committed in parallel, and before the end.
    """

    tokens: int
    nfe: int
    seconds: float
    first: float | None
    certified: float | None

    @property
    def tokens_per_second(self) -> float:
        return metrics.tokens_per_second(self.tokens, self.seconds)

    @property
    def tokens_per_forward(self) -> float:
        return metrics.tokens_per_forward(self.tokens, self.nfe)


def measure_run(run: AnswerRun, shown: int | None = None) -> _RunFigures | None:
    """Return the figures of a run up to a frame.

    Args:
        run: The run.
        shown: Frames that are shown; None: all.

    Returns:
        The figures; those of the result where all frames are shown and the run is done. None without a frame.
    """
    frames = run.frames if shown is None else run.frames[:shown]
    if not frames:
        return None
    last = frames[-1]
    if run.result is not None and len(frames) == len(run.frames):
        result, first = run.result, _find_first_token_time(run)
        return _RunFigures(len(result.output_ids), result.nfe, result.seconds, first, result.certified_share)
    return _RunFigures(last.decided, last.nfe, last.seconds, _find_first_token_time(run, last.seconds), None)


def _find_first_token_time(run: AnswerRun, until: float | None = None) -> float | None:
    """Return the seconds until the first column was decided; None if that was later than `until` or not yet."""
    for frame in run.frames:
        if until is not None and frame.seconds > until:
            return None
        if frame.when and frame.when[0]:
            return frame.seconds
    return None


def render_figures(run: AnswerRun | None, shown: int | None = None) -> str:
    """Render the figures of a run as a list, with a dash for each that is not known."""
    figures = None if run is None else measure_run(run, shown)
    values = dict.fromkeys(MEANINGS, "–") if figures is None else _format_figures(figures)
    items = "".join(
        f'<div title="{escape_html(MEANINGS[name])}"><dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd></div>'
        for name, value in values.items()
    )
    return f'<dl class="dllm-figures">{items}</dl>'


def _format_figures(figures: _RunFigures) -> dict[str, str]:
    """Return the figures as text, in the order of `MEANINGS`."""
    return {
        "tokens": f"{figures.tokens}",
        "tokens/s": f"{figures.tokens_per_second:.1f}",
        "NFE": f"{figures.nfe}",
        "TPF": f"{figures.tokens_per_forward:.2f}",
        "first token": "–" if figures.first is None else format_seconds(figures.first),
        "seconds": format_seconds(figures.seconds),
        "certified": "–" if figures.certified is None else f"{figures.certified:.0%}",
    }


def format_seconds(seconds: float) -> str:
    """Format a time in milliseconds where it is below a second."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def render_run_status(run: AnswerRun | None, shown: int | None = None) -> str:
    """Render the state of a run in words, as it is when some of its frames are shown."""
    if run is None:
        return ""
    if run.state is RunStatus.FAILED:
        return render_failure(run.error)
    if run.state is RunStatus.WAITING:
        return render_note(f"waiting: {run.ahead} before you" if run.ahead else "loading the model")
    if run.state is RunStatus.STOPPED:
        return render_note("stopped" if shown is None or shown >= len(run.frames) else "stopping")
    # In slow motion a page shows earlier frames of a run that is over: to the reader it is still being written.
    busy = run.state is RunStatus.RUNNING or (shown is not None and shown < len(run.frames))
    return render_note("writing") if busy else render_note(run.hint) if run.hint else ""


def render_note(text: str) -> str:
    """Render a remark, which screen readers read out when they are idle."""
    return f'<p class="dllm-note" role="status">{escape_html(text)}</p>'


def render_failure(text: str) -> str:
    """Render an error, which screen readers read out at once."""
    return f'<p class="dllm-error" role="alert"><strong>Cannot do that.</strong> {escape_html(text)}</p>'


def render_step_line(frame: AnswerFrame, count: int) -> str:
    """Render the summary of a step, of so many in all."""
    low, high = frame.window
    summary = f"step {frame.number + 1} of {count} · {format_seconds(frame.seconds)} · {frame.queries} columns run"
    if high > low:
        summary += f" · window {low} to {high - 1}"
    summary += f" · {len(frame.new)} decided" + (f", {len(frame.revoked)} taken back" if frame.revoked else "")
    return f'<p class="dllm-note">{escape_html(summary)}</p>'
