"""Text as it becomes final, from the stream of steps; and the streamers of `transformers`, which receive it."""

from dllm.streaming.delta import Delta
from dllm.streaming.deltas import Deltas

__all__ = ["Delta", "Deltas"]
