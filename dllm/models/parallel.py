"""One model over several processes: the tensor-parallel plans of `transformers`, under `torchrun`.

Each process holds a slice of every layer and runs the same loop over the same rows; a forward gives all of them the
same logits, so they decide alike and no other part knows of it.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from dllm.errors import ConfigError


class ProcessRank(NamedTuple):
    """This process among those that `torchrun` (or `accelerate launch`) started together."""

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """Whether it is the one that reads, writes and speaks."""
        return self.rank == 0


def current_process() -> ProcessRank:
    """(0, 1) for a process that was started alone."""
    return ProcessRank(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def make_distributed_config(name: str) -> Any:
    """What `transformers` needs to spread the layers of a checkpoint. Raises ConfigError outside `torchrun`."""
    if current_process().size < 2:
        raise ConfigError(
            f"tensor_parallel: {name} is to be spread over the processes of torchrun, and this one is alone; start it "
            "by torchrun --nproc-per-node N --no-python dllm decode …"
        )
    from transformers.distributed import DistributedConfig

    return DistributedConfig(tp_plan="auto")


def broadcast_from_leader(values: list[int], device: torch.device) -> list[int]:
    """The numbers that the leading process gives, in every process."""
    count = torch.tensor([len(values)], device=device)
    torch.distributed.broadcast(count, 0)
    told = (
        torch.tensor(values, device=device) if current_process().leads else torch.zeros(int(count), dtype=torch.int64)
    )
    told = told.to(device=device, dtype=torch.int64)
    if count:
        torch.distributed.broadcast(told, 0)
    return [int(value) for value in told.tolist()]


def leave_process_group() -> None:
    """End what the processes have in common."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
