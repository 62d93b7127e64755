"""A plain causal model's answer in frames: one a token, with what the model thought of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dllm.engine.autoregressive import Autoregressive, generate_autoregressively
from dllm.engine.results import Result
from dllm.integrations.web.frames import AnswerFrame, ColumnGuess
from dllm.requests import Request


class _StoppedError(Exception):
    """Nobody wants the rest."""


def generate_with_frames(
    model: Any,
    request: Request,
    plan: Autoregressive,
    top: int,
    tell: Callable[[AnswerFrame], None],
    stopped: Callable[[], bool],
) -> Result | None:
    """The result of a request, told frame by frame; None if it was stopped.

    model  an `AutoregressiveModel`
    """
    listener = _GenerationListener(len(request.prompt), request.max_new_tokens, top, tell, stopped)
    try:
        found = generate_autoregressively(
            replace(model, network=_ListenedNetwork(model.network, listener)), [request], plan
        )
    except _StoppedError:
        return None
    return found[0]


class _GenerationListener:
    """What `generate` of `transformers` tells while it runs: as its first logits processor, and as its streamer."""

    def __init__(
        self, prompt: int, length: int, top: int, tell: Callable[[AnswerFrame], None], stopped: Callable[[], bool]
    ) -> None:
        self.prompt, self.length, self.top, self.tell, self.stopped = prompt, length, max(1, top), tell, stopped
        self.tokens: list[int] = []
        self.sure: list[float] = []
        self.chances = torch.zeros(1)
        self.start = time.perf_counter()

    def __call__(self, _: Tensor, scores: Tensor) -> Tensor:
        self.chances = scores[0].float().softmax(-1)
        return scores

    def put(self, value: Tensor) -> None:
        """First the prompt (1, n), then a token (1,) at a time."""
        if value.dim() > 1:
            return
        token, column = int(value[0]), len(self.tokens)
        best = torch.topk(self.chances, min(self.top, len(self.chances)))
        likely = tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))
        self.tokens.append(token)
        self.sure.append(float(self.chances[token]))
        count, rest = column + 1, self.length - column - 1
        self.tell(
            AnswerFrame(
                number=column,
                seconds=time.perf_counter() - self.start,
                nfe=count,
                queries=1 if column else self.prompt,
                tokens=[*self.tokens, *[0] * rest],
                pending=[False] * count + [True] * rest,
                when=[*range(1, count + 1), *[0] * rest],
                sure=[*self.sure, *[0.0] * rest],
                new=frozenset([column]),
                revoked=frozenset(),
                window=(column, count),
                guesses={column: ColumnGuess(token, self.sure[-1], likely)},
            )
        )
        if self.stopped():
            raise _StoppedError

    def end(self) -> None:
        pass


class _ListenedNetwork:
    """A network that is the one it holds, but for a listener to what it generates."""

    def __init__(self, network: Any, listener: _GenerationListener) -> None:
        self.network, self.listener = network, listener

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def generate(self, *given: Any, **named: Any) -> Any:
        chain = named["logits_processor"]
        heard = {"logits_processor": type(chain)([self.listener, *chain]), "streamer": self.listener}
        return self.network.generate(*given, **(named | heard))
