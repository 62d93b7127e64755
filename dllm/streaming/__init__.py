"""Text as it becomes final, from the stream of steps; and the streamers of `transformers` fed from it."""

from dllm.streaming.deltas import Delta, Deltas, stream
from dllm.streaming.streamers import stream_to

__all__ = ["Delta", "Deltas", "stream", "stream_to"]
