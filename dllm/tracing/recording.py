"""Writing a trace while the steps come: aside first, and under its name when it is complete."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from dllm.compose.recipes import default_strategy
from dllm.engine.batch import match_block_size
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result
from dllm.errors import ConfigError
from dllm.prompts import Prompt, make_requests
from dllm.requests import Request, count_canvas_columns
from dllm.strategy import Strategy
from dllm.tracing.full_probabilities import request_probabilities
from dllm.tracing.rows import TraceRowBuilder
from dllm.types import Step
from dllm.version import VERSION

FORMAT = 1
"""Version of the format; a reader refuses a higher one."""


class Recorder:
    """Writes a trace. A context manager: left by an exception it leaves nothing behind.

    path   where; nothing may be there
    model  what decodes
    top    likeliest candidates of each column to be kept; they are there if the strategy is `watched`

    `begin` opens a run, `add` writes a step of it; results are found from the steps. Raises ConfigError for a path that
    is taken, OSError where it cannot be written.
    """

    def __init__(self, path: str | Path, model: Any, top: int = 0) -> None:
        self.path, self.model, self.top = Path(path), model, top
        if top < 0:
            raise ConfigError(f"top={top}: must be 0 (none) or more candidates a column")
        _check_path_free(self.path)
        self.aside = self.path.with_name(f"{self.path.name}.{os.getpid()}.part")
        self.piece = _make_piece_decoder(model.tokenizer)
        self.shown: set[int] = set()
        self.count = 0

    def __enter__(self) -> Recorder:
        self.file = self.aside.open("x", encoding="ascii")
        facts = {name: getattr(self.model, name, None) for name in ("name", "family", "mask_id")}
        self.write({"dllm_trace": FORMAT, "dllm": VERSION, "model": facts.pop("name"), **facts, "top": self.top})
        self.collector: Collector | None = None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if kind is None:
                self.finish()
                self.write({"end": self.count})
            self.file.close()
            if kind is None:
                _check_path_free(self.path)
                self.aside.rename(self.path)
        finally:
            self.file.close()
            self.aside.unlink(missing_ok=True)

    def begin(self, requests: Sequence[Request], strategy: Strategy) -> None:
        """Open a run; the one before it is finished, or failed."""
        self.finish()
        model = match_block_size(self.model, strategy)
        self.collector, self.told = Collector(model, requests, strategy), set[int]()
        self.rows = TraceRowBuilder(self.top, self.model.mask_id)
        asked = [
            {
                "prompt": list(request.prompt),
                "max_new_tokens": request.max_new_tokens,
                "stop_ids": None if request.stop_ids is None else list(request.stop_ids),
                "seed": request.seed,
                "holes": list(request.holes),
            }
            for request in requests
        ]
        given = {"strategy": repr(strategy), "columns": count_canvas_columns(model, requests), "requests": asked}
        self.write({"run": given, "pieces": self.spell(token for request in requests for token in request.prompt)})

    def add(self, step: Step) -> None:
        """Write a step, after the results of requests that it found finished."""
        assert self.collector is not None, "begin() opens a run"
        for place in self.collector.add(step):
            self.tell(place, self.collector.found[place])
        rows, tokens = self.rows.of(step)
        self.write({"step": step.number, "rows": rows, "pieces": self.spell(tokens)})
        self.count += 1

    def finish(self) -> None:
        """Write the results of what the last step finished."""
        if self.collector is None or self.collector.last is None:
            return
        closed = ~self.collector.last.canvas.pending.cpu().any(1)
        self.collector.finish([row for row in closed.nonzero().flatten().tolist() if self.collector.open(row)])
        for place, result in self.collector.found.items():
            if place not in self.told:
                self.tell(place, result)

    def tell(self, place: int, result: Result) -> None:
        names = ("text", "output_ids", "when", "nfe", "queries", "parallel", "certified", "seconds", "stopped")
        self.told.add(place)
        self.write({"result": {"request": place} | {name: getattr(result, name) for name in names}})

    def spell(self, tokens: Any) -> dict[str, str]:
        """The texts of tokens that are new to the file."""
        new = set(tokens) - self.shown
        self.shown |= new
        return {str(token): self.piece(token) for token in sorted(new)}

    def write(self, line: dict[str, Any]) -> None:
        self.file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _check_path_free(path: Path) -> None:
    """Raise ConfigError where there is something already."""
    if path.exists():
        raise ConfigError(f"{path} exists already: choose another name for the trace, or move the file away")


def _make_piece_decoder(tokenizer: Any) -> Callable[[int], str]:
    """How a token is shown on its own."""
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
    """Decode prompts as `dllm.decode` does, and write a trace of it to `path`.

    top  likeliest candidates of each column to be kept; 0: none
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
