"""Which engine decodes: this process, or workers of a Ray cluster."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dllm.errors import ConfigError

if TYPE_CHECKING:
    from dllm.jobs import JobEngine

PANEL = "Engine"


def _make_option(text: str, *names: str) -> Any:
    return typer.Option(*names, help=text, rich_help_panel=PANEL, show_default=False)


EngineName = Annotated[
    str,
    _make_option(
        "local (default), or ray: workers of a Ray cluster that hold a model each; RAY_ADDRESS says which, else one is "
        "started here."
    ),
]
Workers = Annotated[int | None, _make_option("Workers of --engine ray. Default: 2.")]
CpusPerWorker = Annotated[float | None, _make_option("CPUs of a worker. Default: 1.")]
GpusPerWorker = Annotated[float | None, _make_option("GPUs of a worker. Default: 1 where the cluster has one, else 0.")]
TensorParallel = Annotated[
    bool | None,
    _make_option(
        "Spread every layer over the processes of torchrun, as is done there by default.",
        "--tensor-parallel/--no-tensor-parallel",
    ),
]


def choose_engine(
    engine: str, workers: int | None, cpus: float | None, gpus: float | None, spread: bool | None = False
) -> Callable[[str, Mapping[str, Any]], JobEngine]:
    """Makes the engine of a checkpoint from its name and how it is loaded. Raises ConfigError.

    spread  whether the model is spread over the processes of torchrun; None: where there are several
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
    return lambda name, loading: RayEngine(name, loading, size, 1.0 if cpus is None else cpus, gpus)


def uses_tensor_parallel(spread: bool | None) -> bool:
    """Whether one model is spread over the processes of torchrun. Raises ConfigError where they would go it alone."""
    size = int(os.environ.get("WORLD_SIZE", 1))
    if spread is False and size > 1:
        raise ConfigError(
            f"{size} processes were started together and would all do the same: leave torchrun out, or use --engine ray"
        )
    return size > 1 if spread is None else spread


def silence_follower() -> bool:
    """Whether this process only follows another; then its results are not said, but its errors are."""
    follows = int(os.environ.get("RANK", 0)) > 0
    if follows:
        sys.stdout = open(os.devnull, "w")  # noqa: SIM115
    return follows
