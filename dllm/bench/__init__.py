"""Measurements of decoding speed, and of its distance from what the hardware allows."""

from dllm.bench.floor import HardwareRates, count_forward_work, measure_rates
from dllm.bench.shapes import SHAPES, ModelShape, make_random_model
from dllm.bench.timing import StrategyTiming, peak_memory, time_autoregressive, time_strategy

__all__ = [
    "SHAPES",
    "HardwareRates",
    "ModelShape",
    "StrategyTiming",
    "count_forward_work",
    "make_random_model",
    "measure_rates",
    "peak_memory",
    "time_autoregressive",
    "time_strategy",
]
