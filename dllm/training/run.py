"""A training run from a plan to an exported model: check everything, read the data, train or go on, export.

A run lives in one folder:

    OUT/run.json       what was asked for; running the same again goes on where it stopped
    OUT/checkpoints    the last complete checkpoints
    OUT/model          the trained model in Hub format, with its card
    OUT/adapter        the adapter alone, of a LoRA run
    OUT/logs           TensorBoard, where asked for
"""

from __future__ import annotations

import json
import logging
import os
from math import ceil
from pathlib import Path
from typing import Any, NamedTuple

from dllm.errors import ConfigError
from dllm.models.third_party import silence_transformers
from dllm.training.arguments import make_training_arguments
from dllm.training.attention import TILE
from dllm.training.base_model import BaseModelInfo, inspect_base, open_network, trained_parameters
from dllm.training.callbacks import EventReporter, Sampler, make_callbacks
from dllm.training.card import ModelCard
from dllm.training.data import check_data_files, read_data_files
from dllm.training.encoding import DataReport, TrainingSample, encode_records
from dllm.training.events import ModelExported, RunPrepared, Watch
from dllm.training.export import export_adapter, export_model
from dllm.training.packing import NoisedDataset, PackedDataset, RowPacking, split_held_out
from dllm.training.plan import TrainingPlan

RUN = "run.json"


class TrainingData(NamedTuple):
    """Data that are ready: rows to train on, rows that are held out, and how they came about."""

    rows: PackedDataset
    held: PackedDataset | None
    samples: list[TrainingSample]
    spared: list[TrainingSample]
    report: DataReport


def run_training(
    plan: TrainingPlan, watch: Watch = lambda event: None, sampler: Sampler | None = None, command: str = ""
) -> Path:
    """Carry out a plan, or go on with it. Returns the folder of the exported model.

    watch    is told every event, on the first of several processes only
    sampler  answers the plan's sample prompt at each evaluation; None: no answers
    command  how the run was started, for the card

    Raises ConfigError before anything is written where the plan, its files or its base cannot work.
    """
    check_data_files(plan.data)
    _check_run_folder(plan)
    _check_weights_unsharded(plan)
    arguments = make_training_arguments(plan)
    ground = inspect_base(plan)
    material = prepare_data(plan, ground)
    steps = (
        plan.steps if plan.steps is not None else max(1, round((plan.epochs or 0) * len(material.rows) / plan.batch))
    )
    first = arguments.process_index == 0
    if first:
        _write_run_file(plan)
    return _train_and_export(
        plan, arguments, ground, material, steps, watch if first else lambda event: None, sampler, command
    )


def _check_run_folder(plan: TrainingPlan) -> None:
    """Raises ConfigError where the run's folder holds something else, or another run."""
    out = Path(plan.out)
    if (out / RUN).is_file():
        try:
            earlier = json.loads((out / RUN).read_text("utf-8"))["plan"]
        except (ValueError, KeyError):
            raise ConfigError(f"out / --out {out}: its {RUN} is broken; give another folder") from None
        plan.check_continues(earlier)
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"out / --out {out}: exists and is no training run; give a new folder")


def _check_weights_unsharded(plan: TrainingPlan) -> None:
    """Raises ConfigError where `accelerate launch` would spread weights that the plan needs whole."""
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true", "yes", "on")
    if sharded and (plan.optimizer == "muon" or plan.average):
        raise ConfigError("fsdp: --optimizer muon and --average need whole weights in each process; leave FSDP out")


def _write_run_file(plan: TrainingPlan) -> None:
    out = Path(plan.out)
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".{RUN}"
    aside.write_text(json.dumps({"plan": plan.record()}, indent=2) + "\n", "utf-8")
    aside.replace(out / RUN)


def prepare_data(plan: TrainingPlan, ground: BaseModelInfo) -> TrainingData:
    """Read, encode, split and pack the data of a plan."""
    packing = RowPacking(
        context=plan.context,
        block=plan.fills,
        fill=ground.stop_ids[0] if plan.pad == "end" else ground.mask_id,
        learnt=plan.pad == "end",
        isolate=plan.isolate,
    )
    samples, report = encode_records(
        read_data_files(plan.data),
        ground.tokenizer,
        longest=plan.context if plan.isolate else None,
        end=ground.stop_ids[0],
        strict=plan.strict_data,
    )
    if plan.held_out and len({sample.digest for sample in samples}) < 2:
        raise ConfigError("held_out / --held-out: one text alone cannot be split; give more data, or --held-out 0")
    taught, spared = split_held_out(samples, plan.held_out)
    return TrainingData(
        PackedDataset(taught, packing), PackedDataset(spared, packing) if spared else None, taught, spared, report
    )


def _train_and_export(
    plan: TrainingPlan,
    arguments: Any,
    ground: BaseModelInfo,
    material: TrainingData,
    steps: int,
    watch: Watch,
    sampler: Sampler | None,
    command: str,
) -> Path:
    from transformers import set_seed

    out = Path(plan.out)
    set_seed(plan.seed)
    network = open_network(ground, plan)
    story = ModelCard(plan, ground, material.report, len(material.samples), len(material.spared), steps, command)
    told = EventReporter(plan, ground, material.spared, watch, sampler, story)
    if steps:
        network = _train_network(plan, arguments, ground, material, network, told, steps)
    if arguments.process_index == 0:
        adapter = None
        with silence_transformers():
            if plan.lora and steps:
                adapter = export_adapter(out / "adapter", network, ground, story.text(adapter=True))
            export_model(out / "model", network, ground, plan, story.text(adapter=False))
        watch(ModelExported(out / "model", adapter))
    return out / "model"


def _train_network(
    plan: TrainingPlan,
    arguments: Any,
    ground: BaseModelInfo,
    material: TrainingData,
    network: Any,
    told: EventReporter,
    steps: int,
) -> Any:
    """The network after all steps, from the last checkpoint on where there is one."""
    from transformers import PrinterCallback

    from dllm.training.average import WeightAverage
    from dllm.training.optim import Muon, make_parameter_groups
    from dllm.training.trainer import Collator, DiffusionTrainer, find_last_checkpoint

    held, checkpoint = None, find_last_checkpoint(Path(plan.out))
    if material.held is not None and plan.eval_rows:
        held = NoisedDataset(material.held, plan.task, 0, min(plan.eval_rows, len(material.held)), shuffle=False)
    arguments.max_steps, arguments.warmup_steps = steps, ceil(plan.warmup * steps)
    arguments.eval_on_start = held is not None and checkpoint is None
    rows = NoisedDataset(material.rows, plan.task, plan.seed, steps * plan.batch)
    collator = Collator(plan.task, ground.mask_id, TILE if arguments.device.type == "cuda" else 1)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    average = WeightAverage(network, plan.average, checkpoint) if plan.average else None
    muon = (
        (Muon, {"params": make_parameter_groups(network, plan.weight_decay), "lr": plan.lr})
        if plan.optimizer == "muon"
        else None
    )
    trainer = DiffusionTrainer(
        network, arguments, rows, held, collator, average,
        callbacks=make_callbacks(plan, told), optimizer_cls_and_kwargs=muon,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    told.sharded = trainer.is_fsdp_enabled
    told.watch(_describe_run(plan, material, network, arguments, steps, checkpoint))
    with silence_transformers():
        trainer.train(resume_from_checkpoint=checkpoint)
    if average is not None:
        average.settle()
    told.story.finish(trainer.state.log_history, arguments)
    return _gather_network(trainer, network, ground, plan)


def _gather_network(trainer: Any, network: Any, ground: BaseModelInfo, plan: TrainingPlan) -> Any:
    """The network with all its weights in this process, also where FSDP keeps each process a part."""
    if not trainer.is_fsdp_enabled:
        return network
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index != 0:
        return network
    again = open_network(ground, plan)
    again.load_state_dict(weights)
    return again


def _describe_run(
    plan: TrainingPlan, material: TrainingData, network: Any, arguments: Any, steps: int, checkpoint: str | None
) -> RunPrepared:
    own = sum(len(sample.tokens) for sample in material.samples)
    return RunPrepared(
        material.report,
        len(material.samples),
        len(material.spared),
        len(material.rows),
        own / (len(material.rows) * plan.context),
        steps,
        int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0,
        sum(parameter.numel() for parameter in network.parameters()),
        sum(parameter.numel() for parameter in trained_parameters(network)),
        str(arguments.device),
        arguments.world_size,
    )
