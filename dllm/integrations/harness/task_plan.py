"""The tasks of an evaluation: found, loaded and checked before any weights are read."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lm_eval.tasks import TaskManager

from dllm.errors import ConfigError, DllmError
from dllm.integrations.harness.sentences import prepare_sentence_model
from dllm.registry import suggest_name

TASKS = Path(__file__).parent / "tasks"
SEED = 1234
"""Seed of lm-eval's choice of examples, as in its own command."""


@dataclass(frozen=True)
class EvaluationPlan:
    """Tasks to evaluate.

    Attributes:
        tasks: Names of tasks, of lm-eval or of a folder in `include`.
        num_fewshot: Examples before each question; None: the task's number.
        limit: Documents of each task, or below 1 a share of them; None: all.
        data: Folder of the data files; None: data sets come from the Hub.
        include: Folders with further task configurations.
        apply_chat_template: Put questions into the chat template of the checkpoint.
        system_instruction: Message of the system, or text before the question.
        fewshot_as_multiturn: Show examples as turns of the chat rather than in one message.
        allow_code: Run programs that the model writes.
        gen_kwargs: Replacements for generation settings of the tasks.

    Raises:
        ConfigError: If there are no tasks, or for a number out of its range.
    """

    tasks: tuple[str, ...]
    num_fewshot: int | None = None
    limit: float | None = None
    data: str | None = None
    include: tuple[str, ...] = ()
    apply_chat_template: bool = False
    system_instruction: str | None = None
    fewshot_as_multiturn: bool = True
    allow_code: bool = False
    gen_kwargs: tuple[tuple[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("no tasks: give --tasks, such as gsm8k or word_problems")
        if self.limit is not None and self.limit <= 0:
            raise ConfigError(f"limit={self.limit:g}: must be positive")
        if self.num_fewshot is not None and self.num_fewshot < 0:
            raise ConfigError(f"num_fewshot={self.num_fewshot}: must not be negative")


class _EvaluationTasks(TaskManager):
    """lm-eval's tasks and ours; a task that has been loaded once is not loaded again.

    Args:
        plan: Plan whose tasks are loaded.

    Attributes:
        known: Loaded tasks by the repr of their list.
        notes: Remarks for the report.
    """

    def __init__(self, plan: EvaluationPlan) -> None:
        ours = ("own", "code", "data") if plan.data else ("own", "code")
        folders = [*(TASKS / name for name in ours), *map(Path, plan.include)]
        if bad := [folder for folder in folders if not folder.is_dir()]:
            raise ConfigError(f"--include-path {bad[0]}: no such folder")
        metadata: Any = {"data": plan.data} if plan.data else {}
        paths = [str(folder) for folder in folders]
        super().__init__(include_path=paths, include_defaults=False, metadata=metadata)
        if any(name not in self.all_tasks for name in plan.tasks):  # reading lm-eval's thousands takes seconds
            super().__init__(include_path=paths, metadata=metadata)
        self.known: dict[str, Any] = {}
        self.notes: list[str] = []

    def load(self, task_list: Any) -> Any:
        """Load tasks, or return them if they are loaded already."""
        key = repr(task_list)
        if key not in self.known:
            self.known[key] = super().load(task_list)
        return self.known[key]


def load_tasks(plan: EvaluationPlan) -> _EvaluationTasks:
    """Load and check the tasks of a plan.

    Raises:
        ConfigError: For an unknown task, one that cannot be loaded, or one that runs programs without permission.
    """
    tasks = _EvaluationTasks(plan)
    for name in plan.tasks:
        if name not in tasks.all_tasks:
            raise ConfigError(
                f"--tasks {name}: no such task{suggest_name(name, tasks.all_tasks)}; `lm-eval ls tasks` lists its own, "
                f"here are also {', '.join(sorted(path.stem for path in TASKS.rglob('*.yaml')))}"
            )
    if plan.allow_code:
        os.environ["HF_ALLOW_CODE_EVAL"] = "1"  # lm-eval's own tasks look for this
    try:
        if any("ifeval" in name for name in plan.tasks) and (note := prepare_sentence_model(plan.data)):
            tasks.notes.append(note)
        loaded = tasks.load(list(plan.tasks))["tasks"]
    except DllmError:
        raise
    except Exception as error:  # data sets, templates and their packages raise nearly anything
        reason = " ".join(str(error).split())[:300]
        raise ConfigError(f"--tasks {','.join(plan.tasks)}: {type(error).__name__} while loading ({reason})") from None
    # An attribute of lm-eval's task classes, which classes of other packages may lack.
    unsafe = [name for name, task in loaded.items() if getattr(task, "UNSAFE_CODE", False)]
    if unsafe and not plan.allow_code:
        raise ConfigError(
            f"{unsafe[0]} runs programs that the model writes: give --allow-code if you accept that. They run in "
            "processes with limits on time, memory and files, which is no protection against malice"
        )
    return tasks


def configure_tasks(tasks: _EvaluationTasks, plan: EvaluationPlan) -> Any:
    """Load the tasks and apply the plan's changes as lm-eval's own command does: shots where the task allows any."""
    loaded = tasks.load(list(plan.tasks))
    for task in loaded["tasks"].values():
        if plan.gen_kwargs and task.get_config("output_type") == "generate_until":
            task.set_config(key="generation_kwargs", value=dict(plan.gen_kwargs), update=True)
        shots = task.get_config("num_fewshot")
        if shots is None or (shots != 0 and plan.num_fewshot is not None):
            task.set_config(key="num_fewshot", value=plan.num_fewshot or 0)
        task.set_fewshot_seed(seed=SEED)
    return loaded
