"""Many prompts as one job: rows read from a file, decoded in batches, and written as soon as they are final."""

from dllm.engine.autoregressive import Autoregressive
from dllm.jobs.engine import JobEngine, LocalEngine, TensorParallelEngine
from dllm.jobs.journal import Journal, format_result_line
from dllm.jobs.plan import DecodeTask, Job, ModelOutline
from dllm.jobs.rows import PromptRow, RowProblem, check_hole, check_length, check_seed, check_text, read_rows
from dllm.jobs.running import BatchStep, Event, RowDone, RowFailed, decode_tasks

__all__ = [
    "Autoregressive",
    "BatchStep",
    "DecodeTask",
    "Event",
    "Job",
    "JobEngine",
    "Journal",
    "LocalEngine",
    "ModelOutline",
    "PromptRow",
    "RowDone",
    "RowFailed",
    "RowProblem",
    "TensorParallelEngine",
    "check_hole",
    "check_length",
    "check_seed",
    "check_text",
    "decode_tasks",
    "format_result_line",
    "read_rows",
]
