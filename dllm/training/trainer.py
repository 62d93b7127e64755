"""`transformers.Trainer` with a masked-diffusion objective: losses that do not depend on how a batch is spread.

What the Trainer does (optimiser, schedule, mixed precision, accumulation, FSDP, resuming, reporting) stays its own.
Ours are the loss, its count of tokens, the held-out loss, and checkpoints that a kill cannot break.
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
    """Rows and their noise become the view of a batch; `grain`: columns are filled up to multiples of it."""

    objective: Objective
    mask_id: int
    grain: int = 1

    def __call__(self, lessons: Sequence[tuple[PackedRows, RowNoise]]) -> dict[str, Tensor]:
        return widen_view(self.objective.view(*stack_rows(lessons), self.mask_id), self.grain)


class DiffusionTrainer(Trainer):
    """A Trainer for rows of `Lessons`.

    collator  makes views, for one objective
    held      held-out rows, or None
    average   what is evaluated instead of the weights in training, and kept in checkpoints; or None

    Checkpoints lie in `output_dir`/checkpoints; each is written aside and renamed when it is whole.
    """

    def __init__(
        self,
        model: Any,
        args: TrainingArguments,
        lessons: NoisedDataset,
        held: NoisedDataset | None,
        collator: Collator,
        average: WeightAverage | None = None,
        **more: Any,
    ) -> None:
        super().__init__(
            model=model, args=args, train_dataset=lessons, eval_dataset=held, data_collator=collator, **more
        )
        self.collator, self.held, self.average = collator, held, average
        if average is not None:
            self.add_callback(average)
        self.model_accepts_loss_kwargs = True  # the loss below is already divided by the tokens of the whole update
        self.saving: Path | None = None

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The batches of an update, and how many tokens they score over all processes."""
        batches = list(islice(epoch_iterator, num_batches))
        count = torch.stack([(batch["labels"] != IGNORE).sum() for batch in batches]).sum().to(device)
        return batches, self.accelerator.reduce(count, "sum")

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This process's part of the update's mean loss, scaled so that the mean over processes is the loss."""
        assert not return_outputs and num_items_in_batch is not None
        total = compute_view_loss(model, inputs, self.collator.objective.attention_block)
        return total / num_items_in_batch * self.accelerator.num_processes

    @torch.no_grad()
    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The mean loss a token over all held-out rows, always with the same noise."""
        if self.held is None:
            return {}
        with self.average.applied() if self.average is not None else nullcontext():
            return self._evaluated(self.held)

    def _evaluated(self, held: NoisedDataset) -> dict[str, float]:
        self.model_wrapped.eval()
        sums = torch.zeros(2, dtype=torch.float64 if self.args.device.type != "mps" else torch.float32)
        sums = sums.to(self.args.device)
        for batch in self._held_batches(held):
            with self.accelerator.autocast():
                loss = compute_view_loss(self.model_wrapped, batch, self.collator.objective.attention_block)
            sums += torch.stack((loss.detach(), (batch["labels"] != IGNORE).sum())).to(sums)
        total, count = self.accelerator.reduce(sums, "sum").tolist()
        figures = {"eval_loss": total / max(count, 1)}
        self.log(figures)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, figures)
        return figures

    def _held_batches(self, held: NoisedDataset) -> Iterator[dict[str, Tensor]]:
        """This process's share of the held-out rows; every process gets equally many batches."""
        processes, size = self.accelerator.num_processes, self.args.per_device_eval_batch_size
        for start in range(0, len(held), processes * size):
            own = start + self.accelerator.process_index * size
            lessons = [held[i] if i < len(held) else make_blank_row() for i in range(own, own + size)]
            batch = self.collator(lessons)
            yield {name: field.to(self.args.device) for name, field in batch.items()}

    def _get_output_dir(self, trial: Any) -> str:
        return str(self.saving) if self.saving is not None else super()._get_output_dir(trial)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """As the Trainer, but aside; the finished folder is renamed into place, and only then an old one dropped."""
        out = Path(self.args.output_dir or ".")
        self.saving = out / WRITING
        if self.args.should_save:
            shutil.rmtree(self.saving, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            if self.average is not None:
                self.average.write(self.saving / f"checkpoint-{self.state.global_step}")
            _publish_checkpoint(self.saving, out / CHECKPOINTS, self.args.save_total_limit)
        self.accelerator.wait_for_everyone()
        self.saving = None


def _publish_checkpoint(aside: Path, place: Path, keep: int | None) -> None:
    """Move the finished checkpoint in `aside` to `place`, then drop all but the newest `keep`."""
    place.mkdir(parents=True, exist_ok=True)
    for done in list(aside.glob("checkpoint-*")):
        _drop_folder(place / done.name, aside)
        done.rename(place / done.name)
    kept = sorted(place.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    for old in kept[: -(keep or len(kept))]:
        _drop_folder(old, aside)
    shutil.rmtree(aside)


def _drop_folder(folder: Path, aside: Path) -> None:
    """Remove a folder so that a kill leaves it whole or gone, never in part where it was."""
    if folder.exists():
        shutil.rmtree(aside / "dropped", ignore_errors=True)
        shutil.rmtree(folder.rename(aside / "dropped"))


def find_last_checkpoint(out: Path) -> str | None:
    """The newest checkpoint of a run, or None."""
    place = out / CHECKPOINTS
    return get_last_checkpoint(str(place)) if place.is_dir() else None
