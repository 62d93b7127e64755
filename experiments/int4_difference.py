"""Two small artefacts of an adaptation: a LoRA adapter, and a full fine-tune kept as an int4 difference.

Question: of a full fine-tune, only the difference to its base needs to be kept. In four bits, what does it weigh and
          what does it lose, beside a LoRA adapter trained on the same rows?
Method:   two runs of experiments/adapt_smollm2.py with the same data, updates and seed, one full (--rank 0), one LoRA.
          The difference of each matrix is rounded to 16 levels, symmetric about zero, one bfloat16 scale for every
          `group` entries of a row; vectors are kept in bfloat16. The held-out loss is `dllm train`'s own, on the rows
          that both runs held out. The rank-r truncation of each difference (r of the LoRA run) is measured beside it.
Read:     held-out loss a masked token (lower is better) and MiB to keep beside the base. An untouched embedding row has
          a difference of zero and yet weighs as much as any other.
Run:      python -m experiments.adapt_smollm2 --data ../shared/data/gsm8k_train.jsonl --out runs/lora --steps 60
          python -m experiments.adapt_smollm2 --data ../shared/data/gsm8k_train.jsonl --out runs/full --steps 60 \
            --rank 0 --lr 1e-4
          python -m experiments.int4_difference --lora runs/lora --full runs/full
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import torch
import typer
from einops import rearrange
from rich.console import Console
from rich.table import Table
from safetensors.torch import load_file
from torch import Tensor

from dllm.training.base_model import inspect_base, open_network
from dllm.training.noise import IGNORE
from dllm.training.objective import compute_view_loss
from dllm.training.packing import NoisedDataset
from dllm.training.plan import TrainingPlan
from dllm.training.run import prepare_data
from dllm.training.trainer import Collator

MIB = 2**20


class _StoredDifference(NamedTuple):
    """A difference that is kept small: its value when it is read again, and its bytes."""

    value: Tensor
    bytes: int


def _quantize_to_int4(difference: Tensor, group: int) -> _StoredDifference:
    """A matrix (o, i) in 16 levels, a scale for every `group` entries of a row; a vector in bfloat16."""
    if difference.ndim < 2 or difference.shape[1] % group:
        return _StoredDifference(difference.bfloat16().float(), 2 * difference.numel())
    parts = rearrange(difference, "o (n g) -> o n g", g=group)
    scale = (parts.abs().amax(-1, keepdim=True) / 7).bfloat16().float().clamp(min=1e-12)
    levels = (parts / scale).round().clamp(-8, 7)
    return _StoredDifference(rearrange(levels * scale, "o n g -> o (n g)"), difference.numel() // 2 + 2 * scale.numel())


def _truncate_rank(difference: Tensor, rank: int) -> _StoredDifference:
    """The best matrix (o, i) of a rank, kept as two bfloat16 factors; a vector in bfloat16."""
    if difference.ndim < 2:
        return _StoredDifference(difference.bfloat16().float(), 2 * difference.numel())
    u, s, v = torch.svd_lowrank(difference, q=min(rank + 8, *difference.shape), niter=2)
    left, right = (u * s)[:, :rank].bfloat16().float(), v[:, :rank].bfloat16().float()
    return _StoredDifference(left @ right.T, 2 * rank * sum(difference.shape))


class _HeldOutEvaluation:
    """The held-out rows of a run, and the loss on them."""

    def __init__(self, plan: TrainingPlan, rows: int) -> None:
        self.plan, self.ground = plan, inspect_base(plan)
        held = prepare_data(plan, self.ground).held
        assert held is not None, "the runs held nothing out: nothing can be compared"
        self.lessons = NoisedDataset(held, plan.task, 0, min(rows, len(held)), shuffle=False)
        self.collator = Collator(plan.task, self.ground.mask_id)
        self.network = open_network(self.ground, plan).eval()
        self.base = {name: tensor.clone() for name, tensor in self.network.state_dict().items()}

    @torch.no_grad()
    def loss(self, weights: dict[str, Tensor]) -> float:
        """Mean loss a masked token with some weights in place of the base's."""
        self.network.load_state_dict({**self.base, **weights})
        total, count = 0.0, 0
        for i in range(len(self.lessons)):
            batch = self.collator([self.lessons[i]])
            total += float(compute_view_loss(self.network, batch, self.plan.task.attention_block))
            count += int((batch["labels"] != IGNORE).sum())
        return total / count


def _read_plan(folder: Path) -> TrainingPlan:
    record = json.loads((folder / "run.json").read_text("utf-8"))["plan"]
    return TrainingPlan(**{**record, "data": tuple(record["data"]), "report_to": tuple(record["report_to"])})


def _read_weights(folder: Path, base: dict[str, Tensor]) -> dict[str, Tensor]:
    """The float32 weights of a run's exported model; a tied head is left to the embedding."""
    found: dict[str, Tensor] = {}
    for file in sorted((folder / "model").glob("*.safetensors")):
        found.update(load_file(file))
    weights = {name: tensor.float() for name, tensor in found.items()}
    if "lm_head.weight" not in weights:
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
    return {name: weights[name] for name in base}


def _measure_folder_size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def main(
    lora: Annotated[Path, typer.Option(help="folder of the LoRA run")],
    full: Annotated[Path, typer.Option(help="folder of the full run")],
    rows: Annotated[int, typer.Option(help="held-out rows")] = 16,
    group: Annotated[list[int] | None, typer.Option(help="entries that share a scale; repeatable")] = None,
    threads: Annotated[int, typer.Option(help="CPU threads")] = 1,
) -> None:
    """Compare the artefacts; a table on stderr, JSON lines on stdout."""
    torch.set_num_threads(threads)
    exam, adapted = _HeldOutEvaluation(_read_plan(full), rows), _read_plan(lora)
    tuned = _read_weights(full, exam.base)
    untied = [name for name in exam.base if name != "lm_head.weight"]

    def kept(how: Callable[[Tensor], _StoredDifference]) -> tuple[dict[str, Tensor], int]:
        parts = {name: how(tuned[name] - exam.base[name]) for name in untied}
        weights = {name: exam.base[name] + part.value for name, part in parts.items()}
        weights["lm_head.weight"] = weights["model.embed_tokens.weight"]
        return weights, sum(part.bytes for part in parts.values())

    table = Table("kept", "held-out loss", "MiB", title=f"{len(exam.lessons)} held-out rows, {exam.plan.steps} updates")

    def tell(name: str, weights: dict[str, Tensor], size: int, **more: Any) -> None:
        loss = exam.loss(weights)
        figures = {"kept": name, "held_out_loss": loss, "mib": size / MIB, "rows": len(exam.lessons), **more}
        sys.stdout.write(json.dumps({**figures, "torch": torch.__version__}) + "\n")
        sys.stdout.flush()
        table.add_row(name, f"{loss:.4f}", f"{size / MIB:.1f}")

    tell("the base alone", {}, 0)
    tell(
        "LoRA adapter",
        _read_weights(lora, exam.base),
        _measure_folder_size(lora / "adapter"),
        rank=adapted.lora,
        plan=adapted.record(),
    )
    tell("full fine-tune", tuned, 4 * sum(tuned[name].numel() for name in untied), plan=exam.plan.record())
    for g in group or [32, 64]:
        tell(f"int4 difference, groups of {g}", *kept(partial(_quantize_to_int4, group=g)))
    tell(f"rank {adapted.lora} of the difference", *kept(lambda d: _truncate_rank(d, adapted.lora or 16)))
    Console(stderr=True).print(table)


if __name__ == "__main__":
    typer.run(main)
