"""Recording a trace while the steps come: in a temporary file, which gets its name when the trace is complete."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from dllm.compose.recipes import default_strategy
from dllm.engine.batch import match_block_size
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result
from dllm.errors import ConfigError
from dllm.files import write_atomically
from dllm.prompts import Prompt, make_requests
from dllm.requests import Request, count_canvas_columns
from dllm.strategy import Strategy
from dllm.tracing.full_probabilities import request_probabilities
from dllm.tracing.rows import TraceRowBuilder
from dllm.types import Step
from dllm.version import VERSION

FORMAT = 1
"""Version of the format; a reader refuses a higher one."""
RESULT_FIELDS = ("text", "output_ids", "when", "nfe", "queries", "parallel", "certified", "seconds", "stopped")
"""Fields of a `Result` that are recorded."""


class Recorder:
    """A recorder of one trace. Use it as a context manager; left by an exception, it leaves nothing behind.

    `begin` opens a run and `add` records a step of it. Results are found from the steps.

    Args:
        path: Path of the trace; nothing may be there.
        model: The model that decodes.
        top: Number of likeliest candidates of each column that are recorded. They are known only if the strategy that
            runs was changed by `request_probabilities`.

    Attributes:
        path: Path of the trace.
        count: Number of steps that were recorded.
        collector: Results of the current run; None before the first.

    Raises:
        ConfigError: There is a file at `path` already, or `top` is negative.
        OSError: The file cannot be written.
    """

    def __init__(self, path: str | Path, model: Any, top: int = 0) -> None:
        self.path, self.model, self.top = Path(path), model, top
        if top < 0:
            raise ConfigError(f"top={top}: must be 0 (none) or more candidates a column")
        _check_path_free(self.path)
        self.count = 0
        self.collector: Collector | None = None
        self._decode_piece = _make_piece_decoder(model.tokenizer)
        self._known_pieces: set[int] = set()
        self._recorded_results: set[int] = set()

    def __enter__(self) -> Recorder:
        self._opened = _open_new_file(self.path)
        self._file = self._opened.__enter__()
        # A model of the user's own need have neither a name nor a family.
        name, family = getattr(self.model, "name", None), getattr(self.model, "family", None)
        made = {"model": name, "family": family, "mask_id": self.model.mask_id, "top": self.top}
        self._write_line({"dllm_trace": FORMAT, "dllm": VERSION, **made})
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._opened.__exit__(kind, error, traceback)
            return
        with ExitStack() as stack:
            stack.push(self._opened)  # it removes the file if the last lines cannot be written
            self.finish()
            self._write_line({"end": self.count})

    def begin(self, requests: Sequence[Request], strategy: Strategy) -> None:
        """Open a run. The run before it must be finished, or have failed."""
        self.finish()
        model = match_block_size(self.model, strategy)
        self.collector, self._recorded_results = Collector(model, requests, strategy), set()
        self._rows = TraceRowBuilder(self.top, self.model.mask_id)
        entries = [
            {
                "prompt": list(request.prompt),
                "max_new_tokens": request.max_new_tokens,
                "stop_ids": None if request.stop_ids is None else list(request.stop_ids),
                "seed": request.seed,
                "holes": list(request.holes),
            }
            for request in requests
        ]
        run = {"strategy": repr(strategy), "columns": count_canvas_columns(model, requests), "requests": entries}
        pieces = self._take_new_pieces(token for request in requests for token in request.prompt)
        self._write_line({"run": run, "pieces": pieces})

    def add(self, step: Step) -> None:
        """Record a step, after the results of the requests that it found finished."""
        assert self.collector is not None, "begin() opens a run"
        for place in self.collector.add(step):
            self._write_result(place, self.collector.found[place])
        rows, tokens = self._rows.build(step)
        self._write_line({"step": step.number, "rows": rows, "pieces": self._take_new_pieces(tokens)})
        self.count += 1

    def finish(self) -> None:
        """Record the results of requests that the last step finished."""
        if self.collector is None or self.collector.last is None:
            return
        closed = ~self.collector.last.canvas.pending.cpu().any(1)
        self.collector.finish_rows(closed)
        for place, result in self.collector.found.items():
            if place not in self._recorded_results:
                self._write_result(place, result)

    def _write_result(self, place: int, result: Result) -> None:
        values = asdict(result)
        self._recorded_results.add(place)
        self._write_line({"result": {"request": place} | {name: values[name] for name in RESULT_FIELDS}})

    def _take_new_pieces(self, tokens: Iterable[int]) -> dict[str, str]:
        """Return the texts of those tokens that are not in the file yet."""
        new = set(tokens) - self._known_pieces
        self._known_pieces |= new
        return {str(token): self._decode_piece(token) for token in sorted(new)}

    def _write_line(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")) + "\n")


@contextmanager
def _open_new_file(path: Path) -> Iterator[TextIO]:
    """Open a file that appears as `path` when the block ends, and not at all after an exception.

    Raises:
        ConfigError: Meanwhile something else appeared at `path`.
    """
    with write_atomically(path) as temporary:
        with temporary.open("x", encoding="ascii") as file:
            yield file
        _check_path_free(path)


def _check_path_free(path: Path) -> None:
    """Raise ConfigError if there is something at `path` already."""
    if path.exists():
        raise ConfigError(f"{path} exists already: choose another name for the trace, or move the file away")


def _make_piece_decoder(tokenizer: Any) -> Callable[[int], str]:
    """Make the function that decodes one token on its own; without a tokenizer it returns the id."""
    return (lambda token: f"{token} ") if tokenizer is None else (lambda token: tokenizer.decode([token]))


def record_trace(
    path: str | Path,
    model: Any,
    prompts: Prompt | Sequence[Prompt],
    strategy: Strategy | None = None,
    *,
    max_new_tokens: int = 128,
    batch_size: int | None = None,
    seed: int = 0,
    top: int = 0,
) -> list[Result]:
    """Decode prompts as `dllm.decode` does, and record a trace of it.

    Args:
        path: Path of the trace; nothing may be there.
        model: The model.
        prompts: Prompts, as `dllm.decode` takes them.
        strategy: Strategy; None: the default of the model.
        max_new_tokens: New tokens of each prompt.
        batch_size: Prompts decoded together; None: all.
        seed: Seed of the first prompt; each of the following has one more.
        top: Number of likeliest candidates of each column that are recorded.

    Returns:
        The results, in order.
    """
    requests = make_requests(model, prompts, max_new_tokens, seed)
    plan = default_strategy(model) if strategy is None else strategy
    with Recorder(path, model, top) as recorder:
        recorder.begin(requests, plan)
        for step in steps(model, requests, request_probabilities(plan) if top else plan, batch_size=batch_size):
            recorder.add(step)
        recorder.finish()
        assert recorder.collector is not None
        return recorder.collector.results()
