"""Where the published code is wrong, ours is not; what the recordings themselves show is in `tests/goldens`."""

from __future__ import annotations

import dllm
from dllm import Blocks, DualCache, FullBlock, PrefixCache, Request, Strategy, Threshold, TopK
from tests.tiny import MASK, tiny_model


def test_a_quota_larger_than_what_is_pending_overwrites_nothing() -> None:
    """SDAR: four a step over the full block, five columns of it prompt; published, that rewrites the prompt."""
    strategy = Strategy(TopK(pace=FullBlock()), Blocks(8, steps=2, commit=True), PrefixCache())
    prompt = (3, 7, 1, 22, 9)
    steps = list(dllm.steps(tiny_model("block-causal"), [Request(prompt, 11)], strategy))
    before = None
    for step in steps:
        tokens, pending = step.canvas.tokens[0], step.canvas.pending[0]
        assert tuple(tokens[:5].tolist()) == prompt
        if before is not None:
            assert (tokens == before[0])[~before[1]].all()
        before = tokens, pending


def test_no_mask_is_left_behind() -> None:
    """Fast-dLLM's dual cache takes at most `steps` forwards a block and leaves what is not sure by then masked."""
    strategy = Strategy(Threshold(0.99), Blocks(8), DualCache())
    *_, last = dllm.steps(tiny_model("bidirectional"), [Request((3, 7, 1), 24)], strategy)
    assert not last.canvas.pending.any()
    assert not (last.canvas.tokens == MASK).any()


def test_a_short_prompt_beside_a_long_one_is_not_padded_into_something_else() -> None:
    """LLaDA's evaluation pads on the left and attends to the padding; ours pads on the right, where nobody looks."""
    strategy = Strategy(Threshold(0.6), Blocks(8), DualCache())
    short, long = Request((3, 7), 12), Request(tuple(range(1, 21)), 12)
    together = dllm.decode(tiny_model("bidirectional"), [short, long], strategy)
    (alone,) = dllm.decode(tiny_model("bidirectional"), short, strategy)
    assert (together[0].output_ids, together[0].nfe) == (alone.output_ids, alone.nfe)
