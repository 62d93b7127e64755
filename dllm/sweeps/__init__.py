"""Grids of strategies × prompts × models: read from a file, decoded cell by cell, kept in a table, drawn and tuned."""

from dllm.sweeps.answer_checks import CHECKS, Check
from dllm.sweeps.cells import Cell, SweepCheckpoint
from dllm.sweeps.grid import Sweep, read_sweep
from dllm.sweeps.pareto import pareto_front
from dllm.sweeps.questions import SOURCES, Question, QuestionSet, read_questions
from dllm.sweeps.running import CellFailed, CellFinished, CellRowDecoded, CellStarted, run_sweep
from dllm.sweeps.table import SweepTable, read_table
from dllm.sweeps.tuning import StrategyChoice, choose_strategy

__all__ = [
    "CHECKS",
    "SOURCES",
    "Cell",
    "CellFailed",
    "CellFinished",
    "CellRowDecoded",
    "CellStarted",
    "Check",
    "Question",
    "QuestionSet",
    "StrategyChoice",
    "Sweep",
    "SweepCheckpoint",
    "SweepTable",
    "choose_strategy",
    "pareto_front",
    "read_questions",
    "read_sweep",
    "read_table",
    "run_sweep",
]
