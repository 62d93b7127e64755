"""The costs of every step of a strategy on the pretended device."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import dllm
from dllm.testing.device.pretended import PretendedDevice
from dllm.testing.device.record import Record


class StepCost(NamedTuple):
    """Costs of one step: of everything between two steps of the stream, so the first includes the preparation of rows.

    Attributes:
        kernels: Kernels outside the network's decoder: the loop, its parts and the head.
        decoder_kernels: Kernels of the network's decoder, and of the store that it writes and reads.
        waits: Number of times that the host waits for the device, by the line that makes it wait.
        stalls: The waits with kernels enqueued since the last one: only these let the device run dry.
        blocking: The waits that are copies to the device without `non_blocking`.
        copies: Copies to the device that do not block, of pinned memory or not.
    """

    kernels: int
    decoder_kernels: int
    waits: Counter[str]
    stalls: Counter[str]
    blocking: Counter[str]
    copies: Counter[str]


def step_costs(
    model: Any, requests: Sequence[Any], strategy: Any, batch_size: int | None = None, watch: Sequence[str] = ("dllm",)
) -> list[StepCost]:
    """Decode requests on the pretended device and count what every step costs.

    Args:
        model: A model on the CPU.
        requests: As for `dllm.steps`.
        strategy: As for `dllm.steps`.
        batch_size: As for `dllm.steps`.
        watch: Packages (folders) to whose lines costs are attributed: for a plug-in, its own too.

    Returns:
        One cost for every step of the stream.
    """
    with PretendedDevice(watch) as device:
        there = device.put(model)
        device.clear()
        for _ in dllm.steps(there, requests, strategy, batch_size=batch_size):
            device.record.next_step()
    return [_sum_step_cost(device.record, i) for i in range(len(device.record.steps) - 1)]


def _sum_step_cost(record: Record, step: int) -> StepCost:
    """Add up the events of one step; those that no watched line caused are the test's own and left out."""
    kernels = {True: 0, False: 0}
    lines: dict[str, Counter[str]] = {kind: Counter() for kind in ("wait", "stall", "blocking", "h2d", "pinned")}
    for event, amount in record.steps[step].items():
        if not event.site:
            continue
        if event.kind == "launch":
            decoder = event.site.startswith("dllm/models/") and not event.site.endswith(" head")
            kernels[decoder] += amount.kernels
        elif event.kind in lines:
            lines[event.kind][f"{event.site}: {event.operation}"] += amount.times
    return StepCost(
        kernels=kernels[False],
        decoder_kernels=kernels[True],
        waits=lines["wait"],
        stalls=lines["stall"],
        blocking=lines["blocking"],
        copies=lines["h2d"] + lines["pinned"],
    )
