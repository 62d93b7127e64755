"""The streamers of `transformers`, which receive what becomes final."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from dllm.errors import ConfigError
from dllm.streaming.delta import Delta


def check_streamers(listeners: Sequence[Any], count: int) -> None:
    """Raise ConfigError for streamers that cannot follow `count` prompts."""
    if len(listeners) != count:
        raise ConfigError(
            f"{len(listeners)} streamers for {count} prompts: a streamer follows one text, so give one each"
        )
    for listener in listeners:
        if getattr(listener, "_takes_logits", False):
            raise ConfigError(
                f"{type(listener).__name__} wants the logits of drafts, which are never kept: use one that does not"
            )


def send_delta(listener: Any, delta: Delta, blank: int) -> None:
    """Send a delta to a streamer, with the draft behind it if the streamer shows drafts.

    Args:
        listener: The streamer.
        delta: The delta.
        blank: Token that stands for a pending one in a draft.
    """
    if delta.ids:
        listener.put(torch.tensor(delta.ids))
    if delta.pending and hasattr(listener, "put_draft"):
        listener.put_draft(torch.tensor([blank if token is None else token for token in delta.pending]))
