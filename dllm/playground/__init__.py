"""Tasks on which decoding matters: prompts from a seed, a verifier, and a limit that no decoder can beat.

    task("shuffle").examples(seed=0, size=8, count=20)

A package adds a task by an entry point of the group `dllm.tasks` that names a subclass of `Task`:

    [project.entry-points."dllm.tasks"]
    mine = "my_tasks:Mine"
"""

from __future__ import annotations

from typing import Any

from dllm.errors import ConfigError
from dllm.playground.base import Example, Task
from dllm.registry import Registry, RegistryEntry

PREFIX = "playground/"


def _require_task_class(entry: RegistryEntry, found: Any) -> type[Task]:
    """Return what a package brings, or raise ConfigError if it is not a class of tasks."""
    if not (isinstance(found, type) and issubclass(found, Task)):
        raise ConfigError(f"{entry.place} is no subclass of dllm.playground.Task")
    return found


TASKS: Registry[type[Task]] = Registry(
    "task",
    "dllm.tasks",
    {
        name: f"dllm.playground.{place}"
        for name, place in {
            "copy": "copying:Copy",
            "reverse": "reverse:Reverse",
            "sort": "sort:Sort",
            "shuffle": "shuffle:Shuffle",
            "replace": "replace:Replace",
            "insert": "insert:Insert",
            "remove": "remove:Remove",
            "pairs": "pairs:Pairs",
            "latin": "latin:Latin",
            "sudoku4": "sudoku:Sudoku4",
            "sudoku6": "sudoku:Sudoku6",
            "sum": "sums:Sum",
            "carries": "sums:Carries",
            "star": "star:Star",
            "brackets": "brackets:Brackets",
            "agreement": "agreement:Agreement",
            "problems": "problems:Problems",
            "questions": "problems:Questions",
        }.items()
    },
    _require_task_class,
)
"""All tasks, as classes by name."""


def task(name: str) -> Task:
    """Make the task of that name.

    Args:
        name: The task's name, with or without `playground/` before it.

    Raises:
        ConfigError: There is no such task; the message lists the names there are.
    """
    return TASKS.find(name.removeprefix(PREFIX))()


__all__ = ["PREFIX", "TASKS", "Example", "Task", "task"]
