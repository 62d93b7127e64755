"""Schedulers: where to work, and how fast."""

from dllm.schedulers.adaptive import AdaptiveBlocks
from dllm.schedulers.blocks import Blocks, Whole
from dllm.schedulers.pipeline import Pipeline
from dllm.schedulers.sliding import SlidingBlock
from dllm.schedulers.variable import VariableLength

__all__ = ["AdaptiveBlocks", "Blocks", "Pipeline", "SlidingBlock", "VariableLength", "Whole"]
