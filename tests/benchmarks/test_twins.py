"""Two streams of the same work: equal, parted by a close call, or really different."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from benchmarks.device.laws import LawCheck, sample
from benchmarks.device.twins import compare, on_device, to_host
from dllm import Blocks, DualCache, Strategy, Threshold, TopK
from dllm.testing import laws
from dllm.testing.cells import REQUESTS
from tests.tiny import GEOMETRIES, tiny_model

CPU = torch.device("cpu")
STRATEGY = Strategy(Threshold(0.6), Blocks(8), DualCache())


def stream(strategy: Strategy = STRATEGY, dtype: torch.dtype = torch.float32) -> list:
    found, _ = laws.run_batch(on_device(tiny_model("bidirectional"), CPU, dtype), REQUESTS, strategy)
    return [to_host(step) for step in found]


def test_the_same_work_is_equal() -> None:
    found = stream()
    assert compare(found, stream()) == (len(found), False, 0.0)
    assert type(found[0]).__name__ == "Step" and found[0].canvas.rows.limit.device == CPU


def test_where_streams_part() -> None:
    other = compare(stream(), stream(replace(STRATEGY, policy=TopK(k=2))))
    assert other.parted and other.difference == 0, "both saw the same up to there, and chose otherwise"
    shorter = compare(stream(), stream()[:-1])
    assert shorter.parted and shorter.steps == len(stream()) - 1


def test_rounding_shows_as_a_difference_of_probabilities() -> None:
    assert 1e-5 < compare(stream(), stream(dtype=torch.bfloat16)).difference < 0.5


@pytest.mark.parametrize(("spoilt", "outcomes"), [(1e-7, {"equal", "close call"}), (0.3, {"differs", "broken"})])
def test_a_device_that_computes_otherwise_is_seen(spoilt: float, outcomes: set[str]) -> None:
    """Either by its tokens, or by its predictions where nothing stale was read."""
    check = LawCheck(CPU, torch.float32, False, 1)
    _, twin = check.pair("bidirectional")
    with torch.no_grad():
        for weight in twin.network.parameters():
            weight.add_(spoilt * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    assert check.check(("bidirectional", STRATEGY))["outcome"] in outcomes


def test_a_sample_begins_with_every_geometry_and_is_the_same_each_time() -> None:
    assert {cell[0] for cell in sample()[:64]} == set(GEOMETRIES)
    assert sample.__wrapped__() == sample()
