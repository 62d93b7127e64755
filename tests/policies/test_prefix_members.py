"""Members of the prefix kernel and scores, on boards worked out by hand."""

from __future__ import annotations

import json
import math

import pytest
import torch

from dllm import (
    Confidence,
    ConfigError,
    DecayingThreshold,
    EntropyBound,
    EntropyThreshold,
    Margin,
    Peak,
    PositionCalibrated,
    Random,
    Threshold,
    TopK,
)
from dllm.signals import Entropy, Noise
from tests.policies.board import accepted, board, committed

ENTROPIES = board([0.9, 0.5, None, 0.8, 0.7], entropy=[[0.3, 0.9, 0.0, 0.1, 0.2]])


@pytest.mark.parametrize(
    ("gamma", "want"),
    [(0.0, [3]), (0.11, [3, 4]), (0.29, [3, 4]), (0.31, [0, 3, 4]), (0.59, [0, 3, 4]), (0.61, [0, 1, 3, 4])],
)
def test_entropy_bound(gamma: float, want: list[int]) -> None:
    """Sorted 0.1 0.2 0.3 0.9: sum - max is 0, 0.1, 0.3, 0.6."""
    assert accepted(EntropyBound(gamma), ENTROPIES) == [want]


def test_entropy_bound_by_another_proxy() -> None:
    """By confidence 0.3 0.1 0.2 0.9: sum - max is 0, 0.1, 0.3, 0.6 of slots 0, 3, 4, 1."""
    assert accepted(EntropyBound(0.2, score=Confidence()), ENTROPIES) == [[0, 3]]
    assert EntropyBound(0.2, score=Confidence()).needs == (Entropy(),)
    assert EntropyBound(0.2, score=Random()).needs == (Noise(), Entropy())


def test_entropy_bound_zero_takes_ties_of_certainty() -> None:
    view = board([1.0, 0.6, 1.0, 0.7], entropy=[[0.0, 0.5, 0.0, 0.4]])
    assert accepted(EntropyBound(0.0), view) == [[0, 2, 3]]  # the largest of a prefix is free


@pytest.mark.parametrize(("h", "want"), [(0.0, [3]), (0.1, [3]), (0.3, [0, 3, 4]), (9.0, [0, 1, 3, 4])])
def test_entropy_threshold(h: float, want: list[int]) -> None:
    assert committed(EntropyThreshold(h), ENTROPIES) == [want]


def test_margin_threshold_is_a_threshold_by_margin() -> None:
    view = board([0.5, 0.5, 0.6], p2=[[0.1, 0.45, 0.3]])
    assert accepted(Threshold(0.25, score=Margin()), view) == [[0, 2]]


@pytest.mark.parametrize(("step", "want"), [(0, [3]), (1, [0, 3]), (2, [0, 1, 3]), (9, [0, 1, 3])])
def test_decaying_threshold(step: int, want: list[int]) -> None:
    """1, 0.9, 0.8, and never below 0.75."""
    view = board([0.95, 0.85, 0.7, 1.0], step=step)
    assert accepted(DecayingThreshold(tau=0.75, decay=0.1), view) == [want]


def test_peak_ignores_what_was_drawn() -> None:
    view = board([0.1, 0.2], p1=[[0.9, 0.6]], mode=[[1, 1]])
    assert accepted(TopK(k=1, score=Peak()), view) == [[0]]
    assert accepted(TopK(k=1), view) == [[1]]


@pytest.fixture
def table(tmp_path):
    """Token 3 is half of all text, token 5 a twentieth; any other counts as one in a hundred."""
    file = tmp_path / "frequencies.json"
    file.write_text(json.dumps({"num_token": 100, "p_baseline_dict": {"5": 5, "3": 50}}))
    return str(file)


def test_position_calibrated_values(table: str) -> None:
    _, window, guess = board([0.9, None, 0.8, 0.5], columns=[4, 5, 6, 7], tokens=[[3, 0, 5, 4]])
    got = PositionCalibrated(decay=0.5, clip=2.0, frequencies=table)(guess, window)
    fall = [math.exp(-0.5 * i) for i in range(4)]
    want = [0.9 * -math.log(0.5), 0.0, 2.0, 2.0]  # 0.8 · 2.996 and 0.5 · 4.605 are clipped
    torch.testing.assert_close(got, torch.tensor([[w * f for w, f in zip(want, fall, strict=True)]]), atol=1e-5, rtol=0)


def test_position_calibrated_orders(table: str) -> None:
    view = board([0.9, 0.8, 0.85], tokens=[[3, 5, 3]])
    assert accepted(TopK(k=1, score=PositionCalibrated(0.0)), view) == [[0]]  # most confident
    assert accepted(TopK(k=1, score=PositionCalibrated(0.0, frequencies=table)), view) == [[1]]  # least frequent
    assert accepted(TopK(k=2, score=PositionCalibrated(9.0, frequencies=table)), view) == [[0, 1]]  # leftmost
    far = board([0.5] * 400)
    assert accepted(TopK(k=1, score=PositionCalibrated(1.0)), far) == [[0]]


def test_position_calibrated_refuses_what_is_no_table(tmp_path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        PositionCalibrated(frequencies="nowhere.json")
    nothing, no_total = '{"num_token": 3, "p_baseline_dict": {}}', '{"num_token": 0, "p_baseline_dict": {"1": 1}}'
    for text in ("[]", "{}", nothing, no_total):
        file = tmp_path / f"{len(text)}.json"
        file.write_text(text)
        with pytest.raises(ConfigError, match=r"p_baseline_dict|counts"):
            PositionCalibrated(frequencies=str(file))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: EntropyBound(-1), "gamma"),
        (lambda: EntropyBound(math.inf), "gamma"),
        (lambda: EntropyBound(math.nan), "gamma"),
        (lambda: EntropyThreshold(-0.1), "h must"),
        (lambda: EntropyThreshold(score=Margin()), "entropy"),
        (lambda: DecayingThreshold(decay=-1), "decay"),
        (lambda: PositionCalibrated(decay=-1), "decay"),
        (lambda: PositionCalibrated(clip=0), "clip"),
    ],
)
def test_impossible_settings(make, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        make()
