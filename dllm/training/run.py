"""A training run from a plan to an exported model: check everything, read the data, train or continue, export.

A run lives in one folder:

    OUT/run.json       the plan; running the same plan again continues where it stopped
    OUT/checkpoints    the last complete checkpoints
    OUT/model          the trained model in Hub format, with its card
    OUT/adapter        the adapter alone, of a LoRA run
    OUT/logs           TensorBoard, where the plan asks for it
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
    """Data that are ready to train on.

    Attributes:
        rows: Packed rows to train on.
        held: Packed rows that are held out, if any.
        samples: Samples of `rows`.
        held_out: Samples of `held`.
        report: Summary of the files' rows.
    """

    rows: PackedDataset
    held: PackedDataset | None
    samples: list[TrainingSample]
    held_out: list[TrainingSample]
    report: DataReport


def run_training(
    plan: TrainingPlan, watch: Watch = lambda event: None, sampler: Sampler | None = None, command: str = ""
) -> Path:
    """Carry out a plan, or continue a run of it that was interrupted.

    Args:
        plan: Everything that decides the run.
        watch: Receiver of every event, called on the first of several processes only.
        sampler: Function that answers the plan's sample prompt at each evaluation; None: no answers.
        command: Command that started the run, for the card.

    Returns:
        Folder of the exported model.

    Raises:
        ConfigError: Before anything is written, if the plan, its files or its base cannot work.
    """
    check_data_files(plan.data)
    _check_run_folder(plan)
    _check_weights_unsharded(plan)
    arguments = make_training_arguments(plan)
    base = inspect_base(plan)
    data = prepare_data(plan, base)
    steps = plan.steps if plan.steps is not None else max(1, round((plan.epochs or 0) * len(data.rows) / plan.batch))
    first = arguments.process_index == 0
    if first:
        _write_run_file(plan)
    return _train_and_export(
        plan, arguments, base, data, steps, watch if first else lambda event: None, sampler, command
    )


def _check_run_folder(plan: TrainingPlan) -> None:
    """Raise ConfigError if the run's folder holds something else, or another run."""
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
    """Raise ConfigError if `accelerate launch` would shard weights that the plan needs whole."""
    sharded = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() in ("1", "true", "yes", "on")
    if sharded and (plan.optimizer == "muon" or plan.average):
        raise ConfigError("fsdp: --optimizer muon and --average need whole weights in each process; leave FSDP out")


def _write_run_file(plan: TrainingPlan) -> None:
    """Write the plan into the run's folder, complete or not at all."""
    out = Path(plan.out)
    out.mkdir(parents=True, exist_ok=True)
    aside = out / f".{RUN}"
    aside.write_text(json.dumps({"plan": plan.record()}, indent=2) + "\n", "utf-8")
    aside.replace(out / RUN)


def prepare_data(plan: TrainingPlan, base: BaseModelInfo) -> TrainingData:
    """Read, encode, split and pack the data of a plan.

    Raises:
        ConfigError: If no row is usable, or if one text alone would have to be split.
    """
    packing = RowPacking(
        context=plan.context,
        block=plan.fills,
        fill=base.stop_ids[0] if plan.pad == "end" else base.mask_id,
        learnt=plan.pad == "end",
        isolate=plan.isolate,
    )
    samples, report = encode_records(
        read_data_files(plan.data),
        base.tokenizer,
        longest=plan.context if plan.isolate else None,
        end=base.stop_ids[0],
        strict=plan.strict_data,
    )
    if plan.held_out and len({sample.digest for sample in samples}) < 2:
        raise ConfigError("held_out / --held-out: one text alone cannot be split; give more data, or --held-out 0")
    training, held_out = split_held_out(samples, plan.held_out)
    return TrainingData(
        PackedDataset(training, packing),
        PackedDataset(held_out, packing) if held_out else None,
        training,
        held_out,
        report,
    )


def _train_and_export(
    plan: TrainingPlan,
    arguments: Any,
    base: BaseModelInfo,
    data: TrainingData,
    steps: int,
    watch: Watch,
    sampler: Sampler | None,
    command: str,
) -> Path:
    """Train for the given steps and write the results; only the first process writes."""
    from transformers import set_seed

    out = Path(plan.out)
    set_seed(plan.seed)
    network = open_network(base, plan)
    card = ModelCard(plan, base, data.report, len(data.samples), len(data.held_out), steps, command)
    reporter = EventReporter(plan, base, data.held_out, watch, sampler, card)
    if steps:
        network = _train_network(plan, arguments, base, data, network, reporter, steps)
    if arguments.process_index == 0:
        adapter = None
        with silence_transformers():
            if plan.lora and steps:
                adapter = export_adapter(out / "adapter", network, base, card.text(adapter=True))
            export_model(out / "model", network, base, plan, card.text(adapter=False))
        watch(ModelExported(out / "model", adapter))
    return out / "model"


def _train_network(
    plan: TrainingPlan,
    arguments: Any,
    base: BaseModelInfo,
    data: TrainingData,
    network: Any,
    reporter: EventReporter,
    steps: int,
) -> Any:
    """Return the network after all steps, continuing from the last checkpoint if there is one."""
    from transformers import PrinterCallback

    from dllm.training.average import WeightAverage
    from dllm.training.optim import Muon, make_parameter_groups
    from dllm.training.trainer import Collator, DiffusionTrainer, find_last_checkpoint

    held, checkpoint = None, find_last_checkpoint(Path(plan.out))
    if data.held is not None and plan.eval_rows:
        held = NoisedDataset(data.held, plan.task, 0, min(plan.eval_rows, len(data.held)), shuffle=False)
    arguments.max_steps, arguments.warmup_steps = steps, ceil(plan.warmup * steps)
    arguments.eval_on_start = held is not None and checkpoint is None
    rows = NoisedDataset(data.rows, plan.task, plan.seed, steps * plan.batch)
    collator = Collator(plan.task, base.mask_id, TILE if arguments.device.type == "cuda" else 1)
    logging.getLogger("transformers.trainer").setLevel(logging.ERROR)
    average = WeightAverage(network, plan.average, checkpoint) if plan.average else None
    muon = (
        (Muon, {"params": make_parameter_groups(network, plan.weight_decay), "lr": plan.lr})
        if plan.optimizer == "muon"
        else None
    )
    trainer = DiffusionTrainer(
        network, arguments, rows, held, collator, average,
        callbacks=make_callbacks(plan, reporter), optimizer_cls_and_kwargs=muon,
    )  # fmt: skip
    trainer.remove_callback(PrinterCallback)
    reporter.sharded = trainer.is_fsdp_enabled
    reporter.watch(_describe_run(plan, data, network, arguments, steps, checkpoint))
    with silence_transformers():
        trainer.train(resume_from_checkpoint=checkpoint)
    if average is not None:
        average.copy_to_network()
    reporter.card.finish(trainer.state.log_history, arguments)
    return _gather_network(trainer, network, base, plan)


def _gather_network(trainer: Any, network: Any, base: BaseModelInfo, plan: TrainingPlan) -> Any:
    """Return the network with all its weights in this process, even where FSDP keeps a part in each process."""
    if not trainer.is_fsdp_enabled:
        return network
    weights = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if trainer.args.process_index != 0:
        return network
    again = open_network(base, plan)
    again.load_state_dict(weights)
    return again


def _describe_run(
    plan: TrainingPlan, data: TrainingData, network: Any, arguments: Any, steps: int, checkpoint: str | None
) -> RunPrepared:
    """Summarise a run that is about to start."""
    own = sum(len(sample.tokens) for sample in data.samples)
    return RunPrepared(
        data.report,
        len(data.samples),
        len(data.held_out),
        len(data.rows),
        own / (len(data.rows) * plan.context),
        steps,
        int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0,
        sum(parameter.numel() for parameter in network.parameters()),
        sum(parameter.numel() for parameter in trained_parameters(network)),
        str(arguments.device),
        arguments.world_size,
    )
