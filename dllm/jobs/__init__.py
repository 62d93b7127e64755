"""Many prompts as one job: rows read from a file, decoded in batches, and written as soon as they are final."""

from dllm.jobs.engine import Engine, Local, Spread
from dllm.jobs.journal import Journal, to_line
from dllm.jobs.plan import Autoregressive, Job, Outline, Task
from dllm.jobs.rows import Problem, Row, check_hole, check_length, check_seed, check_text, read_rows
from dllm.jobs.running import Denoised, Done, Event, Failed, decode

__all__ = [
    "Autoregressive",
    "Denoised",
    "Done",
    "Engine",
    "Event",
    "Failed",
    "Job",
    "Journal",
    "Local",
    "Outline",
    "Problem",
    "Row",
    "Spread",
    "Task",
    "check_hole",
    "check_length",
    "check_seed",
    "check_text",
    "decode",
    "read_rows",
    "to_line",
]
