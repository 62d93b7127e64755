"""`transformers.Trainer` with a masked-diffusion objective, whose losses do not depend on how a batch is spread.

Optimiser, schedule, mixed precision, accumulation, FSDP, resuming and reporting stay the Trainer's own. Ours are the
loss, its count of tokens, the held-out loss, and checkpoints that a kill cannot break.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import Trainer, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from dllm.training.average import WeightAverage
from dllm.training.noise import IGNORE
from dllm.training.objective import compute_view_loss
from dllm.training.packing import NoisedDataset, make_blank_row, stack_rows
from dllm.training.views import Objective, PackedRows, RowNoise, widen_view

CHECKPOINTS, WRITING = "checkpoints", "writing"


@dataclass(frozen=True)
class Collator:
    """Turns rows and their noise into the view of a batch.

    Attributes:
        objective: Objective whose view is made.
        mask_id: Id of the mask token.
        grain: Columns are filled up to multiples of it.
    """

    objective: Objective
    mask_id: int
    grain: int = 1

    def __call__(self, rows: Sequence[tuple[PackedRows, RowNoise]]) -> dict[str, Tensor]:
        return widen_view(self.objective.view(*stack_rows(rows), self.mask_id), self.grain)


class DiffusionTrainer(Trainer):
    """A Trainer for the rows of a `NoisedDataset`.

    Checkpoints lie in `output_dir`/checkpoints; each is written in a staging folder and renamed when it is complete.

    Args:
        model: Network to train.
        args: Arguments of the Trainer.
        rows: Rows of the whole run.
        held: Held-out rows, or None.
        collator: Maker of views, for one objective.
        average: Running average to evaluate instead of the weights in training and to keep in checkpoints; or None.
        more: Further arguments of the Trainer.

    Attributes:
        staging: Folder in which a checkpoint is being written; None between checkpoints.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        rows: NoisedDataset,
        held: NoisedDataset | None,
        collator: Collator,
        average: WeightAverage | None = None,
        **more: Any,
    ) -> None:
        super().__init__(model=model, args=args, train_dataset=rows, eval_dataset=held, data_collator=collator, **more)
        self.collator, self.held, self.average = collator, held, average
        if average is not None:
            self.add_callback(average)
        self.model_accepts_loss_kwargs = True  # the loss below is already divided by the tokens of the whole update
        self.staging: Path | None = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the batches of an update, and the number of tokens they score over all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        count = torch.stack([(batch["labels"] != IGNORE).sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.reduce(count, "sum")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return this process's part of the update's mean loss, scaled so that the mean over processes is the loss."""
        assert not return_outputs and num_items_in_batch is not None
        total = compute_view_loss(model, inputs, self.collator.objective.attention_block)
        return total / num_items_in_batch * self.accelerator.num_processes

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Compute the mean loss per token over all held-out rows, always with the same noise."""
        if self.held is None:
            return {}
        with self.average.applied() if self.average is not None else nullcontext():
            return self._compute_held_out_loss(self.held)

    def _compute_held_out_loss(self, held: NoisedDataset) -> dict[str, float]:
        """Compute, log and report the held-out loss of the weights as they are."""
        self.model_wrapped.eval()
        sums = torch.zeros(2, dtype=torch.float64 if self.args.device.type != "mps" else torch.float32)
        sums = sums.to(self.args.device)
        for batch in self._iterate_held_out_batches(held):
            with self.accelerator.autocast():
                loss = compute_view_loss(self.model_wrapped, batch, self.collator.objective.attention_block)
            sums += torch.stack((loss.detach(), (batch["labels"] != IGNORE).sum())).to(sums)
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        metrics = {"eval_loss": total / max(count, 1)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _iterate_held_out_batches(self, held: NoisedDataset) -> Iterator[dict[str, Tensor]]:
        """Iterate over this process's share of the held-out rows; every process gets equally many batches."""
        processes, size = self.accelerator.num_processes, self.args.per_device_eval_batch_size
        for start in range(0, len(held), processes * size):
            own = start + self.accelerator.process_index * size
            # Blank rows score no token, but a process without a batch would leave the others waiting in FSDP.
            rows = [held[i] if i < len(held) else make_blank_row() for i in range(own, own + size)]
            batch = self.collator(rows)
            yield {name: field.to(self.args.device) for name, field in batch.items()}

    def _get_output_dir(self, trial: Any) -> str:
        """Return the staging folder while a checkpoint is being written, so that the Trainer writes there."""
        return str(self.staging) if self.staging is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save as the Trainer does, but in a staging folder, then rename the complete checkpoint and drop old ones."""
        out = Path(self.args.output_dir or ".")
        self.staging = out / WRITING
        if self.args.should_save:
            shutil.rmtree(self.staging, ignore_errors=True)
        self.accelerator.wait_for_everyone()  # no process may write before the remains of a killed run are removed
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if self.average is not None:
                self.average.write(self.staging / f"checkpoint-{self.state.global_step}")
            _publish_checkpoint(self.staging, out / CHECKPOINTS, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()
        self.staging = None


def _publish_checkpoint(staging: Path, target: Path, keep: int | None) -> None:
    """Move the finished checkpoint in `staging` to `target`, then drop all but the newest `keep`."""
    target.mkdir(parents=True, exist_ok=True)
    for done in list(staging.glob("checkpoint-*")):
        _drop_folder(target / done.name, staging)
        done.rename(target / done.name)
    kept = sorted(target.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for old in kept[: -(keep or len(kept))]:
        _drop_folder(old, staging)
    shutil.rmtree(staging)


def _drop_folder(folder: Path, staging: Path) -> None:
    """Remove a folder such that a kill leaves it complete or gone, and never in part under its own name."""
    if folder.exists():
        shutil.rmtree(staging / "dropped", ignore_errors=True)
        shutil.rmtree(folder.rename(staging / "dropped"))


def find_last_checkpoint(out: Path) -> str | None:
    """Return the newest checkpoint of a run, or None."""
    target = out / CHECKPOINTS
    return get_last_checkpoint(str(target)) if target.is_dir() else None
