"""The processes that share an evaluation, as `accelerate launch` or `torchrun` start them."""

from __future__ import annotations

import os
from typing import Any

from dllm.errors import ConfigError


class SingleProcess:
    """A process that works alone, with the same methods as a group."""

    rank, count = 0, 1

    def device(self, asked: str | None) -> str | None:
        """Return the device as the settings name it."""
        return asked

    def all_gather(self, tensor: Any) -> Any:
        """Return the tensor itself."""
        return tensor

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        """Return a list of the one value."""
        return [value]

    def barrier(self) -> None:
        """Return at once."""
        return


class _ProcessGroup:
    """Several processes, each with a replica of the model on its own accelerator, and every n-th document.

    Args:
        cpu: Run on CPUs.
    """

    def __init__(self, cpu: bool) -> None:
        try:
            from accelerate import PartialState
        except ImportError:
            raise ConfigError("several processes need the package accelerate: pip install accelerate") from None
        self.state = PartialState(cpu=cpu)
        self.rank, self.count = self.state.process_index, self.state.num_processes

    def device(self, asked: str | None) -> str | None:
        """Return the accelerator of this process.

        Raises:
            ConfigError: For a device with a number, which all processes would share.
        """
        if asked is not None and ":" in asked:
            raise ConfigError(f"device={asked!r} with {self.count} processes: each takes its own; give the kind alone")
        return asked if asked == "cpu" else str(self.state.device)

    def all_gather(self, tensor: Any) -> Any:
        """Gather a tensor from all processes on all of them."""
        from accelerate.utils import gather

        return gather(tensor)

    def gather_object(self, value: Any, dst: int = 0) -> list[Any] | None:
        """Gather a value from all processes on process `dst`; the others get None."""
        import torch.distributed

        found = [None] * self.count if self.rank == dst else None
        torch.distributed.gather_object(value, found, dst=dst)
        return found

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.state.wait_for_everyone()


def detect_processes(device: str | None) -> SingleProcess | _ProcessGroup:
    """Return the group of processes that this one belongs to."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SingleProcess()
    import torch

    return _ProcessGroup(cpu=device == "cpu" or not torch.cuda.is_available())
