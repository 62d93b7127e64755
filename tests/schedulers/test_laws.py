"""The advanced schedulers under every law, with a policy of each habit and all caches, over all geometries."""

from __future__ import annotations

from dllm import AdaptiveBlocks, Pipeline, SlidingBlock, VariableLength
from dllm.testing import Laws

SOME = tuple(range(0, 32, 5))
"""Token ids that a random model predicts now and then."""


class TestAdaptiveBlocks(Laws):
    parts = (AdaptiveBlocks(8, tau=0.2, delimiters=SOME, search=0.9),)


class TestSlidingBlock(Laws):
    parts = (SlidingBlock(4), SlidingBlock(3, longest=5))


class TestPipeline(Laws):
    parts = (Pipeline(8, add=0.25, activate=0.5),)


class TestVariableLength(Laws):
    parts = (VariableLength(8, initial=3, growth=3, enough=0.06, certain=2.0, low=0.3, tail=4, ends=SOME),)
