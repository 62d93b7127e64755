"""One answer on its way: decoded in a thread of its own at full speed, watched by pages at theirs."""

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
    """How far a run has come."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"
    FAILED = "failed"


class AnswerRun:
    """A recorded answer.

    frames  one a step, so far
    state   see `State`
    before  how many others are to be served first, while it waits
    error   why it failed, for people
    hint    what people should know of an answer that did not fail
    result  once it is done
    model   what the page calls the model
    words   how its tokens are shown
    stops   its end tokens
    plan    what ran, as text
    """

    def __init__(self, model: str = "", prompt: str = "") -> None:
        self.model, self.prompt, self.plan = model, prompt, ""
        self.words = TokenDisplay(None)
        self.stops: frozenset[int] = frozenset()
        self.frames: list[AnswerFrame] = []
        self.state, self.before, self.error, self.hint = RunStatus.WAITING, 0, "", ""
        self.result: Result | None = None
        self.asked_to_stop = False
        self.changed = threading.Condition()

    @property
    def over(self) -> bool:
        return self.state in (RunStatus.DONE, RunStatus.STOPPED, RunStatus.FAILED)

    @property
    def edges(self) -> tuple[AnswerFrame | None, AnswerFrame | None]:
        """The last frame but one, and the last."""
        frames = self.frames[-2:]
        return (frames[0] if len(frames) == 2 else None, frames[-1] if frames else None)

    def start(self, work: Callable[[AnswerRun], None]) -> AnswerRun:
        """Do the work in a thread; it calls `tell` for each frame, and sees to it that `asked_to_stop` ends it."""
        threading.Thread(target=self.carry_out, args=(work,), name="dllm run", daemon=True).start()
        return self

    def carry_out(self, work: Callable[[AnswerRun], None]) -> None:
        try:
            work(self)
            self.tell(state=RunStatus.STOPPED if self.result is None else RunStatus.DONE)
        except DllmError as error:
            self.tell(state=RunStatus.FAILED, error=str(error))
        except Exception as error:
            log.exception("a run failed")
            self.tell(state=RunStatus.FAILED, error=_explain_error(error))

    def stop(self) -> None:
        """End it after the step on which it works."""
        self.asked_to_stop = True

    def tell(self, frame: AnswerFrame | None = None, **news: Any) -> None:
        """Change what the run says of itself and wake those who watch."""
        with self.changed:
            if frame is not None:
                self.frames.append(frame)
            for name, value in news.items():
                setattr(self, name, value)
            self.changed.notify_all()

    def wait_for_turn(self, before: int) -> bool:
        """What `Turns` asks of those who wait."""
        self.tell(before=before)
        return not self.asked_to_stop

    def watch(self, pause: float = 0.0, rate: float = 12.0) -> Iterator[int]:
        """How many frames to show, again and again until all are shown and the run is over.

        pause  seconds for each frame; 0: always the newest, at most `rate` times a second
        """
        shown = 0
        while True:
            with self.changed:
                if not self.over and (pause == 0 or shown >= len(self.frames)):
                    self.changed.wait(1 / rate if self.frames else 0.3)
                found, over = len(self.frames), self.over
            if pause:
                shown = min(shown + 1, found)
                yield shown
                if over and shown >= found:
                    return
                time.sleep(pause)
            else:
                shown = found
                yield shown
                if over:
                    return
                time.sleep(1 / rate)


def _explain_error(error: Exception) -> str:
    """An error of which nobody thought, in words for people."""
    if isinstance(error, MemoryError) or "out of memory" in str(error) or "allocate memory" in str(error):
        return "out of memory: ask for fewer tokens, or start the app with a smaller --dtype"
    return f"something went wrong inside ({type(error).__name__}); the server's log has the details"


def decode_and_record(run: AnswerRun, model: Any, task: DecodeTask, top: int) -> None:
    """Decode a task and record it: the work of a run.

    top  how many of each column's likeliest tokens are kept, see `Camera`
    """
    run.tell(
        state=RunStatus.RUNNING,
        words=TokenDisplay(model.tokenizer),
        stops=frozenset(model.stop_ids if task.request.stop_ids is None else task.request.stop_ids),
        plan=repr(task.plan),
    )
    if isinstance(task.plan, Autoregressive):
        run.result = generate_with_frames(model, task.request, task.plan, top, run.tell, lambda: run.asked_to_stop)
        return
    strategy = request_probabilities(task.plan) if top else task.plan
    camera, collector = FrameRecorder(top), Collector(model, [task.request], strategy)
    start = time.perf_counter()
    for step in steps(model, [task.request], strategy):
        collector.add(step)
        run.tell(camera.shoot(step, time.perf_counter() - start))
        if run.asked_to_stop:
            return
    run.result = collector.results()[0]
