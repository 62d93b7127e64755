"""A plan in the words of `transformers.Trainer`, and whether this machine can carry it out."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.training.plan import TrainingPlan


def make_training_arguments(plan: TrainingPlan) -> Any:
    """`TrainingArguments` of a plan; also starts the processes' group. Raises ConfigError for what cannot run here."""
    needed = ["accelerate", *(["peft"] if plan.lora else [])]
    if missing := [name for name in needed if find_spec(name) is None]:
        raise ConfigError(f"training needs the package {missing[0]}: pip install 'dllm[train]'")
    from transformers import TrainingArguments
    from transformers.integrations import get_available_reporting_integrations

    _check_reporters(plan.report_to, get_available_reporting_integrations())
    cuda = torch.cuda.is_available()
    if plan.bf16 and cuda and not torch.cuda.is_bf16_supported():
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
        bf16=plan.bf16 if plan.bf16 is not None else cuda and torch.cuda.is_bf16_supported(),
        seed=plan.seed,
        logging_steps=plan.log_every,
        logging_nan_inf_filter=False,
        save_steps=plan.save_every,
        save_total_limit=plan.keep,
        eval_strategy="steps" if plan.held_out and plan.eval_rows else "no",
        eval_steps=plan.eval_every,
        report_to=[name for name in plan.report_to if name != "tensorboard"] or "none",
        use_cpu=not cuda,
        disable_tqdm=True,
        remove_unused_columns=False,
        train_sampling_strategy="sequential",
        ddp_find_unused_parameters=False,
        dataloader_pin_memory=cuda,
    )
    if arguments.n_gpu > 1:
        raise ConfigError(
            f"{arguments.n_gpu} GPUs are visible to one process: start it with `accelerate launch`, one process "
            "a GPU, or choose one with CUDA_VISIBLE_DEVICES"
        )
    share = arguments.world_size * plan.micro_batch
    if plan.batch % share:
        raise ConfigError(
            f"batch / --batch {plan.batch}: must be a multiple of {share}, which {arguments.world_size} processes with "
            f"--micro-batch {plan.micro_batch} take at once"
        )
    arguments.gradient_accumulation_steps = plan.batch // share
    return arguments


def _check_reporters(wanted: Sequence[str], usable: Sequence[str]) -> None:
    if odd := [name for name in wanted if name not in usable]:
        raise ConfigError(
            f"report_to / --report-to {odd[0]}: not usable here; installed are {', '.join(usable) or 'none'} "
            "(tensorboard comes with dllm[train])"
        )
