"""Frames of a plain causal model's answer: one for each token, with the probabilities that it was drawn from."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from dllm.engine.autoregressive import Autoregressive
from dllm.engine.results import Result
from dllm.integrations.web.frames import AnswerFrame, ColumnGuess
from dllm.requests import Request
from dllm.streaming.causal import stream_batch_tokens


def generate_with_frames(
    model: Any,
    request: Request,
    plan: Autoregressive,
    top: int,
    on_frame: Callable[[AnswerFrame], None],
    should_stop: Callable[[], bool],
) -> Result | None:
    """Decode a request and pass on a frame for each token as it comes.

    Args:
        model: An `AutoregressiveModel`.
        request: The request.
        plan: How it is decoded.
        top: Likeliest tokens kept of each column; at least one is.
        on_frame: Function that receives the frames.
        should_stop: Function that is asked after each frame whether to end the answer there.

    Returns:
        The result, or None if the answer was ended before.
    """
    probabilities: SimpleQueue[Tensor] = SimpleQueue()
    observed = replace(model, network=_ObservedNetwork(model.network, probabilities))
    recorder = _CausalFrameRecorder(len(request.prompt), request.max_new_tokens, max(1, top))
    # When this loop is left early, the generator is closed, and with it ends the thread that generates.
    for item in stream_batch_tokens(observed, [request], plan, 0):
        if isinstance(item, Result):
            return item
        # The probabilities of a token are put into their queue before the token is drawn, so this never waits.
        on_frame(recorder.record(item[1], probabilities.get()))
        if should_stop():
            break
    return None


class _CausalFrameRecorder:
    """Makes the frames of one answer.

    Args:
        prompt: Tokens of the prompt.
        length: Columns of the answer.
        top: Likeliest tokens kept of each column.
    """

    def __init__(self, prompt: int, length: int, top: int) -> None:
        self.prompt, self.length, self.top = prompt, length, top
        self.tokens: list[int] = []
        self.confidences: list[float] = []
        self.start = time.perf_counter()

    def record(self, token: int, probabilities: Tensor) -> AnswerFrame:
        """Return the frame in which a token was drawn from probabilities (v,)."""
        best = torch.topk(probabilities, min(self.top, len(probabilities)))
        likeliest = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        column = len(self.tokens)
        self.tokens.append(token)
        self.confidences.append(float(probabilities[token]))
        count, rest = column + 1, self.length - column - 1
        return AnswerFrame(
            number=column,
            seconds=time.perf_counter() - self.start,
            nfe=count,
            queries=1 if column else self.prompt,
            tokens=[*self.tokens, *[0] * rest],
            pending=[False] * count + [True] * rest,
            when=[*range(1, count + 1), *[0] * rest],
            confidences=[*self.confidences, *[0.0] * rest],
            new=frozenset([column]),
            revoked=frozenset(),
            window=(column, count),
            guesses={column: ColumnGuess(token, self.confidences[-1], likeliest)},
        )


class _ObservedNetwork:
    """A network that behaves like another, and whose `generate` also puts each token's probabilities into a queue."""

    def __init__(self, network: Any, probabilities: SimpleQueue[Tensor]) -> None:
        self.network, self.probabilities = network, probabilities

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """Generate with a logits processor in front of the others, which sees the logits as the model gave them."""
        processors = kwargs["logits_processor"]
        observed = type(processors)([self._observe, *processors])
        return self.network.generate(*args, **(kwargs | {"logits_processor": observed}))

    def _observe(self, _: Tensor, scores: Tensor) -> Tensor:
        """Note the probabilities of a step from its logits (1, v), which are returned as they are."""
        self.probabilities.put(scores[0].float().softmax(-1))
        return scores
