"""Text as it becomes final, from the stream of steps; and the streamers of `transformers` fed from it."""

from dllm.api import stream, stream_to
from dllm.streaming.deltas import Delta, Deltas

__all__ = ["Delta", "Deltas", "stream", "stream_to"]
