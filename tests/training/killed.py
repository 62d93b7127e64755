"""A training run that is killed in the middle of writing a checkpoint: python -m tests.training.killed PLAN.json STEP.

Torch is told to use one thread, as all tests are, so that losses can be compared to the last digit.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from dllm.training.plan import TrainingPlan
from dllm.training.run import run_training
from dllm.training.trainer import DiffusionTrainer


def main(file: str, step: int) -> None:
    torch.set_num_threads(1)
    fields: dict[str, Any] = json.loads(Path(file).read_text())
    whole = DiffusionTrainer._save_rng_state

    def save(self: Any, output_dir: str) -> None:
        if self.state.global_step == step:
            os.kill(os.getpid(), signal.SIGKILL)
        whole(self, output_dir)

    DiffusionTrainer._save_rng_state = save  # type: ignore[method-assign]
    run_training(TrainingPlan(**{**fields, "data": tuple(fields["data"]), "report_to": ()}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
