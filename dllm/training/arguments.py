"""A training plan as `TrainingArguments` of transformers, with checks of what this machine can run."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.training.plan import TrainingPlan


def make_training_arguments(plan: TrainingPlan) -> Any:
    """Translate a plan into `TrainingArguments`, which also starts the process group.

    Raises:
        ConfigError: For a missing package, a reporter that is not installed, bfloat16 on a GPU without it, several GPUs
            in one process, or a batch that the processes cannot share evenly.
    """
    needed = ["accelerate", *(["peft"] if plan.lora else [])]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(f"training needs the package {missing[0]}: pip install 'dllm[train]'")
    from transformers import TrainingArguments
    from transformers.integrations.integration_utils import get_available_reporting_integrations

    usable: list[str] = get_available_reporting_integrations()
    _check_reporters(plan.report_to, usable)
    cuda = torch.cuda.is_available()
    if plan.bf16 and cuda and not _is_bf16_supported():
        raise ConfigError("bf16 / --bf16: this GPU has no bfloat16; give --no-bf16")
    arguments = TrainingArguments(
        output_dir=plan.out,
        max_steps=max(1, plan.steps or 1),
        per_device_train_batch_size=plan.micro_batch,
        per_device_eval_batch_size=plan.micro_batch,
        learning_rate=plan.lr,
        lr_scheduler_type="cosine",
        weight_decay=plan.weight_decay,
        max_grad_norm=plan.clip,
        bf16=uses_bf16(plan),
        seed=plan.seed,
        logging_steps=plan.log_every,
        logging_nan_inf_filter=False,  # the filter would hide a loss that has become NaN behind the mean of the others
        save_steps=plan.save_every,
        save_total_limit=plan.keep,
        eval_strategy="steps" if plan.held_out and plan.eval_rows else "no",
        eval_steps=plan.eval_every,
        # TensorBoard has a callback of its own (`make_callbacks`), which writes into the run's folder.
        report_to=[name for name in plan.report_to if name != "tensorboard"] or "none",
        use_cpu=not cuda,
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",  # `NoisedDataset` has shuffled the rows already
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=cuda,
    )
    if arguments.n_gpu > 1:
        raise ConfigError(
            f"{arguments.n_gpu} GPUs are visible to one process: start it with `accelerate launch`, one process "
            "a GPU, or choose one with CUDA_VISIBLE_DEVICES"
        )
    rows_at_once = arguments.world_size * plan.micro_batch
    if plan.batch % rows_at_once:
        raise ConfigError(
            f"batch / --batch {plan.batch}: must be a multiple of {rows_at_once}, which {arguments.world_size} "
            f"processes with --micro-batch {plan.micro_batch} take at once"
        )
    arguments.gradient_accumulation_steps = plan.batch // rows_at_once
    return arguments


def uses_bf16(plan: TrainingPlan) -> bool:
    """Decide whether a plan trains in bfloat16 mixed precision: as it says, or wherever a GPU has bfloat16."""
    return plan.bf16 if plan.bf16 is not None else _is_bf16_supported()


def _is_bf16_supported() -> bool:
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def _check_reporters(wanted: Sequence[str], usable: Sequence[str]) -> None:
    if unusable := [name for name in wanted if name not in usable]:
        raise ConfigError(
            f"report_to / --report-to {unusable[0]}: not usable here; installed are {', '.join(usable) or 'none'} "
            "(tensorboard comes with dllm[train])"
        )
