"""A recorded answer: decoded at full speed in a thread of its own, and watched by pages at their own speed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import Any

from dllm.engine.autoregressive import Autoregressive
from dllm.engine.loop import steps
from dllm.engine.results import Collector, Result
from dllm.errors import DllmError
from dllm.integrations.web.causal import generate_with_frames
from dllm.integrations.web.frames import AnswerFrame, FrameRecorder
from dllm.integrations.web.token_text import TokenDisplay
from dllm.jobs import DecodeTask
from dllm.tracing.full_probabilities import request_probabilities

log = logging.getLogger("dllm.app")


class RunStatus(Enum):
    """State of a run."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class AnswerRun:
    """A recorded answer.

    Attributes:
        model: The page's name of the model.
        prompt: The question.
        plan: The strategy or plan that decodes, as text.
        display: Pieces of text for its tokens.
        stops: Its end tokens.
        frames: One frame for each step so far.
        state: State of the run.
        ahead: Number of runs that are served first, while it waits.
        error: Why it failed, for people.
        hint: A remark for people on an answer that did not fail.
        result: The result, once it is done.
        stop_requested: Whether it ends after the current step.
        changed: Condition that announces changes of the other attributes.
    """

    def __init__(self, model: str = "", prompt: str = "") -> None:
        self.model, self.prompt, self.plan = model, prompt, ""
        self.display = TokenDisplay(None)
        self.stops: frozenset[int] = frozenset()
        self.frames: list[AnswerFrame] = []
        self.state, self.ahead, self.error, self.hint = RunStatus.WAITING, 0, "", ""
        self.result: Result | None = None
        self.stop_requested = False
        self.changed = threading.Condition()

    @property
    def over(self) -> bool:
        """True once it is done, stopped or failed."""
        return self.state in (RunStatus.DONE, RunStatus.STOPPED, RunStatus.FAILED)

    def start(self, work: Callable[[AnswerRun], None]) -> AnswerRun:
        """Do the work of the run in a thread.

        Args:
            work: Function that calls `add_frame` for each frame, sets `result` at the end, and returns without a
                result soon after `stop_requested` is set.

        Returns:
            The run itself.
        """
        threading.Thread(target=self._do_work, args=(work,), name="dllm run", daemon=True).start()
        return self

    def _do_work(self, work: Callable[[AnswerRun], None]) -> None:
        """Do the work and set the state in which it ended."""
        try:
            work(self)
            self.update(state=RunStatus.STOPPED if self.result is None else RunStatus.DONE)
        except DllmError as error:
            self.update(state=RunStatus.FAILED, error=str(error))
        except Exception as error:
            log.exception("a run failed")
            self.update(state=RunStatus.FAILED, error=_explain_error(error))

    def stop(self) -> None:
        """End it after the current step."""
        self.stop_requested = True

    def add_frame(self, frame: AnswerFrame) -> None:
        """Add the frame of a step and wake those who watch."""
        with self.changed:
            self.frames.append(frame)
            self.changed.notify_all()

    def update(self, **values: Any) -> None:
        """Set some attributes together and wake those who watch."""
        with self.changed:
            for name, value in values.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait_for_turn(self, ahead: int) -> bool:
        """Note how many runs are ahead, and return whether to wait on (see `TurnQueue.turn`)."""
        self.update(ahead=ahead)
        return not self.stop_requested

    def watch(self, pause: float = 0.0, rate: float = 12.0) -> Iterator[int]:
        """Yield how many frames to show, until all are shown and the run is over.

        Args:
            pause: Seconds for each frame; 0: always the newest frame.
            rate: Most frames shown in a second where `pause` is 0.
        """
        shown = 0
        while True:
            with self.changed:
                if not self.over and (pause == 0 or shown >= len(self.frames)):
                    # The timeouts keep the number of runs ahead on the page current while there is no frame yet.
                    self.changed.wait(1 / rate if self.frames else 0.3)
                # Both are read under the lock: a run that is over gets no frame after the last one that is counted.
                count, over = len(self.frames), self.over
            if pause:
                shown = min(shown + 1, count)
                yield shown
                if over and shown >= count:
                    return
                time.sleep(pause)
            else:
                shown = count
                yield shown
                if over:
                    return
                time.sleep(1 / rate)


def _explain_error(error: Exception) -> str:
    """Return a message for people about an error that is none of the library's own."""
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return "out of memory: ask for fewer tokens, or start the app with a smaller --dtype"
    return f"something went wrong inside ({type(error).__name__}); the server's log has the details"


def decode_and_record(run: AnswerRun, model: Any, task: DecodeTask, top: int) -> None:
    """Decode a task and record it; the work of a run.

    Args:
        run: The run.
        model: The model that decodes.
        task: The task.
        top: Likeliest tokens kept of each column (see `FrameRecorder`).
    """
    run.update(
        state=RunStatus.RUNNING,
        display=TokenDisplay(model.tokenizer),
        stops=frozenset(model.stop_ids if task.request.stop_ids is None else task.request.stop_ids),
        plan=repr(task.plan),
    )
    if isinstance(task.plan, Autoregressive):
        run.result = generate_with_frames(
            model, task.request, task.plan, top, run.add_frame, lambda: run.stop_requested
        )
        return
    strategy = request_probabilities(task.plan) if top else task.plan
    recorder, collector = FrameRecorder(top), Collector(model, [task.request], strategy)
    start = time.perf_counter()
    for step in steps(model, [task.request], strategy):
        # The collector first: it waits for the device, so that the frame's time is that of a finished step.
        collector.add(step)
        run.add_frame(recorder.record(step, time.perf_counter() - start))
        if run.stop_requested:
            return
    run.result = collector.results()[0]
