"""The engine: one thread that owns the model and steps the runs in turn; other threads submit and abandon tickets."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

from dllm.errors import ConfigError, DllmError, NumericsError
from dllm.integrations.server.pending_answers import AnswerUpdate, Ticket
from dllm.integrations.server.runs import ServerRun
from dllm.models.autoregressive import AutoregressiveModel

log = logging.getLogger("dllm.server")


class QueueFullError(Exception):
    """So many tickets wait already that no more are taken."""


class DrainingError(Exception):
    """The engine finishes the tickets that it has and takes no new ones."""


class ServerEngine:
    """Decodes tickets: those of one strategy and width share a run, and the runs take turns, a step each.

    Tickets get their rows in the order in which they came, with one exception: no row is kept free for a ticket whose
    strategy has no run yet. As soon as such a ticket waits, no run takes tickets that came after it; so one of the runs
    ends in time and the ticket gets a run of its own.

    Args:
        model: Any diffusion model.
        rows: Rows decoded at a time in each run.
        runs: Strategies decoded at a time.
        waiting: Tickets that may wait.

    Attributes:
        waiting: Tickets without a row, in the order in which they came.
        runs: Runs by the key of their tickets.
        changed: Condition that guards `waiting`, `runs` and the two flags, and announces their changes.
        draining: Whether new tickets are refused.
        closed: Whether the engine stops after the current step.
        steps: Steps of all runs so far.
        thread: The thread that decodes.

    Raises:
        ConfigError: A number is below 1, or the model is a plain causal one.
    """

    def __init__(self, model: Any, rows: int = 16, runs: int = 4, waiting: int = 256) -> None:
        for name, value in {"rows": rows, "runs": runs, "waiting": waiting}.items():
            if value < 1:
                raise ConfigError(f"Engine({name}={value}): must be at least 1")
        if isinstance(model, AutoregressiveModel):
            raise ConfigError(
                f"{model.name} is a plain causal language model: this server decodes diffusion "
                "models; for others use a server of theirs, such as vLLM"
            )
        self.model, self.rows, self.max_waiting, self.max_runs = model, rows, waiting, runs
        self.waiting: list[Ticket] = []
        self.runs: dict[tuple[str, int], ServerRun] = {}
        self.changed = threading.Condition()
        self.draining = self.closed = False
        self.steps = 0
        self.thread = threading.Thread(target=self._decode_until_closed, name="dllm-engine", daemon=True)

    def start(self) -> None:
        """Start the thread that decodes."""
        self.thread.start()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Take all of some tickets or, with an exception, none.

        Raises:
            DrainingError: The engine takes no new tickets.
            QueueFullError: More tickets would wait than may.
        """
        with self.changed:
            if self.draining or self.closed:
                raise DrainingError
            if len(self.waiting) + len(tickets) > self.max_waiting + self._count_free_rows():
                raise QueueFullError
            self.waiting += tickets
            self.changed.notify_all()

    def _count_free_rows(self) -> int:
        """Return the free rows, which tickets may take without waiting.

        With several runs none are counted, since a ticket can only take rows of the run of its own strategy.
        """
        return max(0, self.rows - self.active_count) if len(self.runs) <= 1 else 0

    def abandon(self, tickets: Sequence[Ticket]) -> None:
        """Give up tickets for whose answers no caller waits any more: their rows are free at the next step."""
        with self.changed:
            for ticket in tickets:
                ticket.abandoned = True
            self.waiting = [ticket for ticket in self.waiting if not ticket.abandoned]
            self.changed.notify_all()

    def drain(self) -> None:
        """Take no new tickets from now on."""
        with self.changed:
            self.draining = True
            self.changed.notify_all()

    @property
    def active_count(self) -> int:
        """Number of tickets that have a row."""
        # The list is a copy, since the engine's thread may add or remove a run meanwhile.
        return sum(len(run.active) for run in list(self.runs.values()))

    @property
    def idle(self) -> bool:
        """True while no ticket waits or is decoded."""
        with self.changed:
            return not self.waiting and not self.runs

    def close(self, patience: float = 10.0) -> None:
        """Stop after the current step; unfinished tickets fail.

        Args:
            patience: Seconds to wait for the current step.
        """
        with self.changed:
            self.closed = self.draining = True
            self.changed.notify_all()
        if self.thread.is_alive():
            self.thread.join(patience)

    def _decode_until_closed(self) -> None:
        """Step the runs in turn until the engine is closed, then fail what is unfinished."""
        while self._wait_for_work():
            self._start_runs()
            for run in list(self.runs.values()):
                self._step_run(run)
        with self.changed:
            unfinished, self.waiting = self.waiting, []
        for ticket in [*unfinished, *(ticket for run in self.runs.values() for ticket in run.active.values())]:
            ticket.on_update(AnswerUpdate(error=DrainingError("the server was stopped")))

    def _wait_for_work(self) -> bool:
        """Wait until there is something to decode and return True; return False once the engine is closed."""
        with self.changed:
            while not (self.waiting or self.runs or self.closed):
                self.changed.wait()
            return not self.closed

    def _start_runs(self) -> None:
        """Start runs for the tickets that have waited longest, while there may be more runs."""
        with self.changed:
            for ticket in self.waiting:
                if ticket.key not in self.runs and len(self.runs) < self.max_runs:
                    self.runs[ticket.key] = ServerRun(self.model, ticket, self._admit, self.rows)

    def _admit(self, key: tuple[str, int], most: int) -> list[Ticket]:
        """Return the waiting tickets of a key that get a row now, at most `most`, and stop waiting for them."""
        with self.changed:
            chosen: list[Ticket] = []
            for ticket in self.waiting:
                # A ticket without a run holds up all that came after it; otherwise runs that always get new tickets
                # would never end, and it would wait for ever.
                if ticket.key not in self.runs or len(chosen) == most:
                    break
                if ticket.key == key:
                    chosen.append(ticket)
            self.waiting = [ticket for ticket in self.waiting if ticket not in chosen]
            return chosen

    def _step_run(self, run: ServerRun) -> None:
        """Make one step of a run. An error ends the run; tickets that did not cause it are decoded again."""
        try:
            self.steps += 1
            if run.step():
                return
        except NumericsError as error:
            self._fail_run(run, error, error.prompts)
        except Exception as error:
            # It is not known which ticket caused it, so all fail: decoding them again could fail for ever.
            if not isinstance(error, DllmError):
                log.exception("a run of %s failed", run.key[0], exc_info=error)
            self._fail_run(run, error, list(run.active))
        with self.changed:
            del self.runs[run.key]

    def _fail_run(self, run: ServerRun, error: Exception, numbers: Sequence[int]) -> None:
        """Fail the tickets with some numbers, and put the others of the run back at the head of the queue."""
        failed = [run.active.pop(number) for number in numbers if number in run.active]
        innocent = [ticket for ticket in run.active.values() if not ticket.abandoned]
        run.active.clear()
        for ticket in innocent:
            ticket.restart()
        with self.changed:
            self.waiting = [*innocent, *self.waiting]
        for ticket in failed:
            ticket.on_update(AnswerUpdate(error=error))
