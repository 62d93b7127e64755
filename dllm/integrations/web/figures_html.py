"""The figures of a run in HTML, in the words of `dllm.metrics`."""

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
    """What is counted of a run; None where it does not apply or is not known yet."""

    tokens: int
    nfe: int
    seconds: float
    first: float | None
    certified: float | None

    @property
    def speed(self) -> float:
        return metrics.tokens_per_second(self.tokens, self.seconds)

    @property
    def per_forward(self) -> float:
        return metrics.tokens_per_forward(self.tokens, self.nfe)


def measure_run(run: AnswerRun, shown: int | None = None) -> _RunFigures | None:
    """The figures of a run as far as it is shown; those of its result at the end."""
    frames = run.frames if shown is None else run.frames[:shown]
    if not frames:
        return None
    last = frames[-1]
    if run.result is not None and len(frames) == len(run.frames):
        found = run.result
        return _RunFigures(
            len(found.output_ids), found.nfe, found.seconds, _find_first_token_time(run), found.certified_share
        )
    return _RunFigures(last.decided, last.nfe, last.seconds, _find_first_token_time(run, last.seconds), None)


def _find_first_token_time(run: AnswerRun, until: float | None = None) -> float | None:
    """When the first column was decided, if it was by then."""
    for frame in run.frames:
        if until is not None and frame.seconds > until:
            return None
        if frame.when and frame.when[0]:
            return frame.seconds
    return None


def render_figures(run: AnswerRun | None, shown: int | None = None) -> str:
    """A run's figures as a list, and how it stands."""
    found = None if run is None else measure_run(run, shown)
    shares = {
        "tokens": "–" if found is None else f"{found.tokens}",
        "tokens/s": "–" if found is None else f"{found.speed:.1f}",
        "NFE": "–" if found is None else f"{found.nfe}",
        "TPF": "–" if found is None else f"{found.per_forward:.2f}",
        "first token": "–" if found is None or found.first is None else format_seconds(found.first),
        "seconds": "–" if found is None else format_seconds(found.seconds),
        "certified": "–" if found is None or found.certified is None else f"{found.certified:.0%}",
    }
    items = "".join(
        f'<div title="{escape_html(MEANINGS[name])}"><dt>{escape_html(name)}</dt><dd>{escape_html(value)}</dd></div>'
        for name, value in shares.items()
    )
    return f'<dl class="dllm-figures">{items}</dl>'


def format_seconds(seconds: float) -> str:
    """A time that may be short or long."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


def render_run_status(run: AnswerRun | None, shown: int | None = None) -> str:
    """How a run stands, in words; what failed is said as an error."""
    if run is None:
        return ""
    if run.state is RunStatus.FAILED:
        return render_failure(run.error)
    if run.state is RunStatus.WAITING:
        return render_note(f"waiting: {run.before} before you" if run.before else "loading the model")
    if run.state is RunStatus.STOPPED:
        return render_note("stopped" if shown is None or shown >= len(run.frames) else "stopping")
    busy = run.state is RunStatus.RUNNING or (shown is not None and shown < len(run.frames))
    return render_note("writing") if busy else render_note(run.hint) if run.hint else ""


def render_note(text: str) -> str:
    return f'<p class="dllm-note" role="status">{escape_html(text)}</p>'


def render_failure(text: str) -> str:
    """Something that went wrong, said so that it is seen and heard."""
    return f'<p class="dllm-error" role="alert"><strong>Cannot do that.</strong> {escape_html(text)}</p>'


def render_step_line(frame: AnswerFrame, count: int) -> str:
    """A step in words."""
    low, high = frame.window
    said = f"step {frame.number + 1} of {count} · {format_seconds(frame.seconds)} · {frame.queries} columns run"
    if high > low:
        said += f" · window {low} to {high - 1}"
    said += f" · {len(frame.new)} decided" + (f", {len(frame.revoked)} taken back" if frame.revoked else "")
    return f'<p class="dllm-note">{escape_html(said)}</p>'
