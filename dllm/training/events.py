"""What a training run tells while it works; whoever listens decides what to draw or to keep."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dllm.training.encoding import DataReport


class RunPrepared(NamedTuple):
    """The run is about to start.

    report                what became of the data
    samples, held         samples to train on and held out
    rows                  rows that the training samples fill
    filled                share of the rows' columns that hold a sample's own tokens
    steps, start          updates in all, and those that an earlier run did
    parameters, trained   numbers in the model, and those that training changes
    device, processes     where it runs, and on how many of them
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
    """What the model answers to a prompt after `step` updates."""

    step: int
    prompt: str
    answer: str


class CheckpointSaved(NamedTuple):
    """A checkpoint is complete."""

    step: int


class ModelExported(NamedTuple):
    """The trained model lies in `folder`, its adapter (LoRA) in `adapter`."""

    folder: Path
    adapter: Path | None


Event = RunPrepared | LossLogged | LossEvaluated | AnswerSampled | CheckpointSaved | ModelExported
Watch = Callable[[Event], None]
