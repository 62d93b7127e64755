"""Events on the pretended device, step by step, with the line of the code that caused each."""

from __future__ import annotations

import os
import sys
from array import array
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import dllm.transfer

SKIPPED = (str(Path(__file__).parent), str(Path(dllm.transfer.__file__)))
"""Files that are never a cause: these, and the helper through which the library copies to the device."""

KINDS = ("launch", "wait", "stall", "blocking", "h2d", "pinned", "d2h", "host", "race")
"""Kinds of events, as `dllm.testing.device` explains them."""


class Event(NamedTuple):
    """An effect of an operation on a device.

    Attributes:
        kind: One of `KINDS`.
        operation: Such as `aten::add.Tensor`.
        site: Innermost line of a watched package, such as `dllm/sampler.py:92 steps`; empty where there is none.
        deeper: Innermost line outside torch, where that lies deeper: within `transformers`, for instance.
    """

    kind: str
    operation: str
    site: str
    deeper: str


class Amount(NamedTuple):
    """Number of times that an event happened, and kernels and bytes in all."""

    times: int = 0
    kernels: int = 0
    bytes: int = 0


class Record:
    """Events by step.

    Args:
        watch: Names of packages (folders) to whose lines events are attributed.
    """

    def __init__(self, watch: Sequence[str]) -> None:
        self._folders = tuple(f"{os.sep}{name}{os.sep}" for name in watch)
        self.clear()

    def clear(self) -> None:
        """Forget all events and begin with the first step again."""
        self.steps: list[dict[Event, Amount]] = [defaultdict(Amount)]
        self._launches: list[array[int]] = [array("l")]
        self._numbers: dict[tuple[str, Any, str], int] = {}

    def next_step(self) -> None:
        """Begin the next step."""
        self.steps.append(defaultdict(Amount))
        self._launches.append(array("l"))

    def note(self, kind: str, operation: str, kernels: int = 0, size: int = 0, shapes: Any = None) -> None:
        """Record one event under the line that caused it."""
        site, deeper = self.site()
        event, events = Event(kind, operation, site, deeper), self.steps[-1]
        before = events[event]
        events[event] = Amount(before.times + 1, before.kernels + kernels, before.bytes + size)
        if kind == "launch" and site:
            key = (operation, shapes, site)
            self._launches[-1].append(self._numbers.setdefault(key, len(self._numbers)))

    def site(self) -> tuple[str, str]:
        """Find the innermost watched line, and the innermost one outside torch where that lies deeper."""
        frame: Any = sys._getframe(1)
        deeper = ""
        while frame is not None:
            name = frame.f_code.co_filename
            if not name.startswith(SKIPPED):
                folder = next((x for x in self._folders if x in name), None)
                if folder is not None:
                    where = folder[1:] + name.rpartition(folder)[2]
                    return f"{where}:{frame.f_lineno} {frame.f_code.co_name}", deeper
                if not deeper and f"{os.sep}torch{os.sep}" not in name and not name.startswith("<"):
                    deeper = f"{os.sep.join(name.split(os.sep)[-3:])}:{frame.f_lineno} {frame.f_code.co_name}"
            frame = frame.f_back
        return "", deeper

    def sites(self, kind: str, steps: Sequence[int] | None = None) -> Counter[tuple[str, str]]:
        """Count the events (for `launch`: the kernels) of a kind that each site and operation caused.

        Args:
            kind: One of `KINDS`.
            steps: Numbers of the steps to look at; None: all.

        Returns:
            Counts by (site, operation). What no watched line caused, such as the test itself, has the site "".
        """
        found: Counter[tuple[str, str]] = Counter()
        for i in range(len(self.steps)) if steps is None else steps:
            for event, amount in self.steps[i].items():
                if event.kind == kind:
                    found[event.site, event.operation] += amount.kernels if kind == "launch" else amount.times
        return found

    def count(self, kind: str, step: int | None = None, outside: bool = False) -> int:
        """Count the events of a kind (for `launch`: the kernels) in one step, or in all.

        Args:
            kind: One of `KINDS`.
            step: Number of the step; None: all.
            outside: Count also what no watched line caused.
        """
        sites = self.sites(kind, None if step is None else [step])
        return sum(number for (site, _), number in sites.items() if site or outside)

    def table(self, *kinds: str, steps: Sequence[int] | None = None) -> str:
        """Format the sites of some kinds (default: all but launches and host operations), the most frequent first."""
        lines = []
        for kind in kinds or [kind for kind in KINDS if kind not in ("launch", "host")]:
            for (site, operation), number in self.sites(kind, steps).most_common():
                lines.append(f"{kind:9} {number:5}  {operation:42} {site or '(outside)'}")
        return "\n".join(lines)

    def difference(self, one: int, other: int) -> str | None:
        """Find why a CUDA graph of one step could not be replayed for another.

        Returns:
            The first thing in either step that no graph can hold, or the first kernel that differs in kind or shapes;
            None where the graph could be replayed, as far as can be seen here.
        """
        for i in (one, other):
            for event in self.steps[i]:
                if event.kind in ("wait", "h2d", "d2h") and event.site:
                    return f"step {i}: {event.kind} {event.operation} at {event.site}"
        known, a, b = list(self._numbers), self._launches[one], self._launches[other]
        for i, j in zip(a, b, strict=False):
            if i != j:
                (name, shapes, site), (name_, shapes_, site_) = known[i], known[j]
                return f"step {one}: {name} {shapes} at {site}; step {other}: {name_} {shapes_} at {site_}"
        return None if len(a) == len(b) else f"{len(a)} operations against {len(b)}"
