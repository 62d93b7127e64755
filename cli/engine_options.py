"""Options for the engine that decodes: this process, processes of torchrun, or workers of a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

from dllm.errors import ConfigError

from .options import make_option

if TYPE_CHECKING:
    from dllm.jobs import JobEngine
    from dllm.models.checkpoint import CheckpointFiles

PANEL = "Engine"


EngineOption = Annotated[
    str,
    make_option(
        PANEL,
        "local (default), or ray: workers of a Ray cluster that hold a model each; RAY_ADDRESS says which, else one is "
        "started here.",
    ),
]
WorkersOption = Annotated[int | None, make_option(PANEL, "Workers of --engine ray. Default: 2.")]
CpusPerWorkerOption = Annotated[float | None, make_option(PANEL, "CPUs of a worker. Default: 1.")]
GpusPerWorkerOption = Annotated[
    float | None, make_option(PANEL, "GPUs of a worker. Default: 1 where the cluster has one, else 0.")
]
TensorParallelOption = Annotated[
    bool | None,
    make_option(
        PANEL,
        "Spread every layer over the processes of torchrun, as is done there by default.",
        "--tensor-parallel/--no-tensor-parallel",
    ),
]


OpenEngine = Callable[["str | CheckpointFiles", Mapping[str, Any]], "JobEngine"]
"""Makes the engine of a checkpoint, given by its name or by its small files, and of the arguments of `dllm.load`."""


def choose_engine(
    engine: str, workers: int | None, cpus: float | None, gpus: float | None, spread: bool | None = False
) -> OpenEngine:
    """Choose how the engine of a checkpoint is made.

    Args:
        engine: Value of `--engine`.
        workers: Workers of a Ray cluster.
        cpus: CPUs of a worker.
        gpus: GPUs of a worker.
        spread: Whether the model is spread over the processes of torchrun; None: where there are several.

    Raises:
        ConfigError: The options contradict each other.
    """
    if uses_tensor_parallel(spread):
        if engine != "local":
            raise ConfigError(f"--engine {engine}: does not belong under torchrun")
        from dllm.jobs import TensorParallelEngine

        return TensorParallelEngine
    if engine == "local":
        for name, value in (("workers", workers), ("cpus-per-worker", cpus), ("gpus-per-worker", gpus)):
            if value is not None:
                raise ConfigError(f"--{name} {value}: belongs to --engine ray")
        from dllm.jobs import LocalEngine

        return LocalEngine
    if engine != "ray":
        raise ConfigError(f"--engine {engine}: choose from local, ray")
    from dllm.integrations.ray import RayEngine

    size = 2 if workers is None else workers
    RayEngine.check(size, 1.0 if cpus is None else cpus, gpus)

    def open_on_workers(checkpoint: str | CheckpointFiles, loading: Mapping[str, Any]) -> JobEngine:
        # A worker may be another machine: it finds the checkpoint by its name and reads the small files itself.
        name = checkpoint if isinstance(checkpoint, str) else checkpoint.name
        return RayEngine(name, loading, size, 1.0 if cpus is None else cpus, gpus)

    return open_on_workers


def uses_tensor_parallel(spread: bool | None) -> bool:
    """Return whether one model is spread over the processes of torchrun.

    Raises:
        ConfigError: There are several processes, and each would do the whole job.
    """
    size = int(os.environ.get("WORLD_SIZE", 1))
    if spread is False and size > 1:
        raise ConfigError(
            f"{size} processes were started together and would all do the same: leave torchrun out, or use --engine ray"
        )
    return size > 1 if spread is None else spread


def silence_follower() -> bool:
    """Return whether this process only follows another; its stdout is then silenced, and its errors are still shown."""
    follows = int(os.environ.get("RANK", 0)) > 0
    if follows:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return follows
