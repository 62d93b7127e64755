"""One model over several processes: the tensor-parallel plans of `transformers`, under `torchrun`.

Each process holds a slice of every layer and runs the same loop over the same rows. A forward gives all of them the
same logits, so they decide alike, and no other part has to be aware of it.
"""

from __future__ import annotations

import os
from typing import Any, NamedTuple

import torch

from dllm.errors import ConfigError


class ProcessRank(NamedTuple):
    """This process among those that `torchrun` (or `accelerate launch`) started together.

    Attributes:
        rank: Its number.
        size: Number of processes.
    """

    rank: int
    size: int

    @property
    def leads(self) -> bool:
        """True for the one that reads input and writes output for all."""
        return self.rank == 0


def current_process() -> ProcessRank:
    """Find this process's rank; it is (0, 1) if it was started alone."""
    return ProcessRank(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))


def make_distributed_config(name: str) -> Any:
    """Make what `transformers` needs to spread the layers of a checkpoint.

    Raises:
        ConfigError: This process was not started by `torchrun` together with others.
    """
    if current_process().size < 2:
        raise ConfigError(
            f"tensor_parallel: {name} is to be spread over the processes of torchrun, and this one is alone; start it "
            "by torchrun --nproc-per-node N --no-python dllm decode …"
        )
    from transformers.distributed import DistributedConfig  # type: ignore[attr-defined]

    return DistributedConfig(tp_plan="auto")


def broadcast_from_leader(values: list[int], device: torch.device) -> list[int]:
    """Send the numbers of the leading process to every process, and return them.

    Processes that follow do not know how many numbers there are, so the count is sent first.
    """
    count = torch.tensor([len(values)], device=device)
    torch.distributed.broadcast(count, 0)
    leads = current_process().leads
    numbers = torch.tensor(values) if leads else torch.zeros(int(count), dtype=torch.int64)
    numbers = numbers.to(device=device, dtype=torch.int64)
    if count:
        torch.distributed.broadcast(numbers, 0)
    return [int(number) for number in numbers.tolist()]


def leave_process_group() -> None:
    """End the process group, if there is one."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
