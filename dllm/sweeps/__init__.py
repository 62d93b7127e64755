"""Grids of strategies × prompts × models: read from a file, decoded by cells, kept in a table, drawn and tuned."""

from dllm.sweeps.cells import Cell, Checkpoint
from dllm.sweeps.checks import CHECKS, Check
from dllm.sweeps.front import front
from dllm.sweeps.grid import Sweep, read_sweep
from dllm.sweeps.questions import SOURCES, Question, Questions, read_questions
from dllm.sweeps.running import Begun, Decoded, Ended, Failed, run
from dllm.sweeps.table import Table, read_table
from dllm.sweeps.tuning import Choice, tune

__all__ = [
    "CHECKS",
    "SOURCES",
    "Begun",
    "Cell",
    "Check",
    "Checkpoint",
    "Choice",
    "Decoded",
    "Ended",
    "Failed",
    "Question",
    "Questions",
    "Sweep",
    "Table",
    "front",
    "read_questions",
    "read_sweep",
    "read_table",
    "run",
    "tune",
]
