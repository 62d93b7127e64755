"""How fast a strategy decodes, and how far that is from what the hardware allows."""

from dllm.bench.floor import Rates, floor, measure_rates
from dllm.bench.shapes import SHAPES, Shape, random_model
from dllm.bench.timing import Timing, peak_memory, time_autoregressive, time_strategy

__all__ = [
    "SHAPES",
    "Rates",
    "Shape",
    "Timing",
    "floor",
    "measure_rates",
    "peak_memory",
    "random_model",
    "time_autoregressive",
    "time_strategy",
]
