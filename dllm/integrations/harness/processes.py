"""The processes that share an evaluation, as `accelerate launch` or `torchrun` start them."""

from __future__ import annotations

import os
from typing import Any

from dllm.errors import ConfigError


class SingleProcess:
    """One process."""

    rank, count = 0, 1

    def device(self, asked: str | None) -> str | None:
        return asked

    def all_gather(self, tensor: Any) -> Any:
        return tensor

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        return [value]

    def barrier(self) -> None:
        return


class _ProcessGroup:
    """Several processes; each has a replica of the model, on the accelerator of its number, and every n-th document."""

    def __init__(self, cpu: bool) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise ConfigError("several processes need the package accelerate: pip install accelerate") from None
        self.state = PartialState(cpu=cpu)
        self.rank, self.count = self.state.process_index, self.state.num_processes

    def device(self, asked: str | None) -> str | None:
        """The accelerator of this process; one that was asked for by number would be that of all."""
        if asked is not None and ":" in asked:
            raise ConfigError(f"device={asked!r} with {self.count} processes: each takes its own; give the kind alone")
        return asked if asked == "cpu" else str(self.state.device)

    def all_gather(self, tensor: Any) -> Any:
        from accelerate.utils import gather

        return gather(tensor)

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        import torch.distributed

        found = [None] * self.count if self.rank == dst else None
        torch.distributed.gather_object(value, found, dst=dst)
        return found

    def barrier(self) -> None:
        self.state.wait_for_everyone()


def detect_processes(device: str | None) -> SingleProcess | _ProcessGroup:
    """Those that this process is one of."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SingleProcess()
    import torch

    return _ProcessGroup(cpu=device == "cpu" or not torch.cuda.is_available())
