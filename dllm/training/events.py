"""Events that a training run reports while it works; the receiver decides what to show or keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dllm.training.encoding import DataReport


class RunPrepared(NamedTuple):
    """The run is about to start.

    Attributes:
        report: Summary of the data.
        samples: Samples to train on.
        held: Samples held out.
        rows: Rows that the training samples fill.
        filled: Share of the rows' columns that hold a sample's own tokens.
        steps: Updates of the whole run.
        start: Updates that an earlier run has done already.
        parameters: Numbers in the model.
        trained: Numbers that training changes.
        device: Device of a process.
        processes: Number of processes.
    """

    report: DataReport
    samples: int
    held: int
    rows: int
    filled: float
    steps: int
    start: int
    parameters: int
    trained: int
    device: str
    processes: int


class LossLogged(NamedTuple):
    """Mean loss since the last such event, learning rate and gradient norm after `step` updates."""

    step: int
    loss: float
    rate: float
    norm: float


class LossEvaluated(NamedTuple):
    """Held-out loss after `step` updates."""

    step: int
    loss: float


class AnswerSampled(NamedTuple):
    """The model's answer to a prompt after `step` updates."""

    step: int
    prompt: str
    answer: str


class CheckpointSaved(NamedTuple):
    """A checkpoint is complete."""

    step: int


class ModelExported(NamedTuple):
    """The trained model lies in `folder`, and its LoRA adapter, if any, in `adapter`."""

    folder: Path
    adapter: Path | None


Event = RunPrepared | LossLogged | LossEvaluated | AnswerSampled | CheckpointSaved | ModelExported
Watch = Callable[[Event], None]
