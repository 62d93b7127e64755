"""The engine: one thread that owns the model and takes turns between the runs; everybody else only leaves tickets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from dllm.errors import ConfigError, DllmError, NumericsError
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket
from dllm.integrations.server.runs import ServerRun

log = logging.getLogger("dllm.server")


class QueueFullError(Exception):
    """So many wait already that no more are taken."""


class DrainingError(Exception):
    """What was taken is finished, and nothing new is taken."""


class ServerEngine:
    """Decodes tickets: those of one strategy share a run, and the runs take turns, a step each.

    model    any diffusion model
    rows     decoded at a time in each run
    runs     strategies decoded at a time
    waiting  tickets that may wait

    Tickets get their rows in the order in which they came, but for this: a row is not kept free for one whose strategy
    has no run yet. As soon as such a ticket waits, no run takes tickets that came after it; so one of them ends.
    """

    def __init__(self, model: Any, rows: int = 16, runs: int = 4, waiting: int = 256) -> None:
        for name, value in {"rows": rows, "runs": runs, "waiting": waiting}.items():
            if value < 1:
                raise ConfigError(f"Engine({name}={value}): must be at least 1")
        if hasattr(model, "generate"):
            raise ConfigError(
                f"{getattr(model, 'name', model)} is a plain causal language model: this server decodes diffusion "
                "models; for others use a server of theirs, such as vLLM"
            )
        self.model, self.rows, self.limit, self.most = model, rows, waiting, runs
        self.waiting: list[Ticket] = []
        self.runs: dict[tuple[str, int], ServerRun] = {}
        self.changed = threading.Condition()
        self.draining = self.closed = False
        self.steps = 0
        self.thread = threading.Thread(target=self.work, name="dllm-engine", daemon=True)

    def start(self) -> None:
        self.thread.start()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Take all of these or, with an exception, none."""
        with self.changed:
            if self.draining or self.closed:
                raise DrainingError
            if len(self.waiting) + len(tickets) > self.limit + self.free():
                raise QueueFullError
            self.waiting += tickets
            self.changed.notify_all()

    def free(self) -> int:
        """Rows that are free, if every run's are counted but no new run's."""
        return max(0, self.rows - self.seated) if len(self.runs) <= 1 else 0

    def leave(self, tickets: Sequence[Ticket]) -> None:
        """Nobody waits for these any more: their rows are free at the next step."""
        with self.changed:
            for ticket in tickets:
                ticket.left = True
            self.waiting = [ticket for ticket in self.waiting if not ticket.left]
            self.changed.notify_all()

    def drain(self) -> None:
        """Take nothing new from now on."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()

    @property
    def seated(self) -> int:
        """Tickets that have a row."""
        return sum(len(run.seated) for run in list(self.runs.values()))

    @property
    def idle(self) -> bool:
        """Nothing is decoded and nobody waits."""
        with self.changed:
            return not self.waiting and not self.runs

    def close(self, patience: float = 10.0) -> None:
        """Stop after the current step, whatever is unfinished, which fails."""
        with self.changed:
            self.closed = self.draining = True
            self.changed.notify_all()
        if self.thread.is_alive():
            self.thread.join(patience)

    def work(self) -> None:
        while self.wait():
            self.open()
            for run in list(self.runs.values()):
                self.take_turn(run)
        with self.changed:
            left, self.waiting = self.waiting, []
        for ticket in [*left, *(ticket for run in self.runs.values() for ticket in run.seated.values())]:
            ticket.tell(AnswerUpdate(error=DrainingError("the server was stopped")))

    def wait(self) -> bool:
        """Whether there is something to do; False once closed."""
        with self.changed:
            while not (self.waiting or self.runs or self.closed):
                self.changed.wait()
            return not self.closed

    def open(self) -> None:
        """Begin runs for those who have waited longest, while there may be more."""
        with self.changed:
            for ticket in self.waiting:
                if ticket.key not in self.runs and len(self.runs) < self.most:
                    self.runs[ticket.key] = ServerRun(self.model, ticket, self.admit, self.rows)

    def admit(self, key: tuple[str, int], most: int) -> list[Ticket]:
        with self.changed:
            chosen: list[Ticket] = []
            for ticket in self.waiting:
                if ticket.key not in self.runs or len(chosen) == most:
                    break
                if ticket.key == key:
                    chosen.append(ticket)
            self.waiting = [ticket for ticket in self.waiting if ticket not in chosen]
            return chosen

    def take_turn(self, run: ServerRun) -> None:
        """One step of a run; what goes wrong ends it, and those whose fault it was not begin again."""
        try:
            self.steps += 1
            if run.step():
                return
        except NumericsError as error:
            self.fail(run, error, error.prompts)
        except Exception as error:
            if not isinstance(error, DllmError):
                log.exception("a run of %s failed", run.key[0], exc_info=error)
            self.fail(run, error, list(run.seated))
        with self.changed:
            del self.runs[run.key]

    def fail(self, run: ServerRun, error: Exception, numbers: Sequence[int]) -> None:
        failed = [run.seated.pop(number) for number in numbers if number in run.seated]
        rest = [ticket for ticket in run.seated.values() if not ticket.left]
        run.seated.clear()
        for ticket in rest:
            ticket.restart()
        with self.changed:
            self.waiting = [*rest, *self.waiting]
        for ticket in failed:
            ticket.tell(AnswerUpdate(error=error))
