"""The streamers of `transformers` receive what models of `transformers` would send them."""

from __future__ import annotations

from threading import Thread
from typing import Any

import pytest
import torch
from transformers import TextDiffusionStreamer, TextIteratorStreamer, TextStreamer
from transformers.generation.streamers import BaseStreamer

import dllm
from tests.streaming.test_deltas import REQUESTS, STRATEGIES, tiny_with_tokenizer

REQUEST = REQUESTS[1]


class RecordingStreamer(BaseStreamer):
    """A streamer that records what it receives."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def put(self, value: torch.Tensor) -> None:
        self.received.append(value)

    def end(self) -> None:
        self.received.append(None)


class DraftRecordingStreamer(RecordingStreamer):
    """A streamer that also records drafts."""

    def __init__(self) -> None:
        super().__init__()
        self.drafts: list[torch.Tensor] = []

    def put_draft(self, value: torch.Tensor, **_: Any) -> None:
        self.drafts.append(value)


def test_text_streamer(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_with_tokenizer("block-causal", "byte-level")
    streamer = TextStreamer(tiny.tokenizer, skip_prompt=True, skip_special_tokens=True)
    (result,) = dllm.stream_to(streamer, tiny, REQUEST, STRATEGIES[0])
    assert capsys.readouterr().out == f"{result.text}\n"


def test_text_iterator_streamer() -> None:
    tiny = tiny_with_tokenizer("block-causal", "word-piece")
    streamer = TextIteratorStreamer(tiny.tokenizer, skip_prompt=True, skip_special_tokens=True, timeout=60)
    found: list[dllm.Result] = []
    thread = Thread(target=lambda: found.extend(dllm.stream_to(streamer, tiny, REQUEST, STRATEGIES[0])))
    thread.start()
    text = "".join(streamer)
    thread.join()
    assert text == tiny.tokenizer.decode(found[0].output_ids, skip_special_tokens=True)


def test_text_diffusion_streamer(capsys: pytest.CaptureFixture[str]) -> None:
    tiny = tiny_with_tokenizer("bidirectional", "byte-level")
    streamer = TextDiffusionStreamer(tiny.tokenizer, skip_prompt=True, skip_special_tokens=True)
    (result,) = dllm.stream_to(streamer, tiny, REQUEST, STRATEGIES[0])
    drawn = capsys.readouterr().out
    assert "\033[33m" in drawn, "drafts were drawn"
    assert drawn.endswith("\n") and result.text is not None


def test_a_batch_has_a_streamer_each() -> None:
    tiny = tiny_with_tokenizer("bidirectional", None)
    streamers = [RecordingStreamer(), DraftRecordingStreamer(), RecordingStreamer()]
    results = dllm.stream_to(streamers, tiny, REQUESTS[:3], STRATEGIES[0], batch_size=2)
    for streamer, request, result in zip(streamers, REQUESTS, results, strict=False):
        prompt, *tokens, end = streamer.received
        assert prompt.tolist() == [list(request.prompt)] and end is None
        assert torch.cat(tokens).tolist() == list(result.output_ids)
    assert isinstance(streamers[1], DraftRecordingStreamer) and tiny.mask_id in streamers[1].drafts[0].tolist()


def test_streamers_that_do_not_match_are_refused() -> None:
    tiny = tiny_with_tokenizer("bidirectional", None)
    with pytest.raises(dllm.ConfigError, match="1 streamers for 3 prompts"):
        dllm.stream_to(RecordingStreamer(), tiny, REQUESTS[:3], STRATEGIES[0])
    greedy = RecordingStreamer()
    greedy._takes_logits = True
    with pytest.raises(dllm.ConfigError, match="logits"):
        dllm.stream_to(greedy, tiny, REQUESTS[0], STRATEGIES[0])
    assert greedy.received == []


def test_nobody_waits_for_ever_when_decoding_fails() -> None:
    streamer = RecordingStreamer()
    with pytest.raises(dllm.RequestError):
        dllm.stream_to(streamer, tiny_with_tokenizer("bidirectional", None), dllm.Request((99,), 4), STRATEGIES[0])
    assert streamer.received[-1] is None


def test_a_plain_causal_model_stops_when_nobody_listens(autoregressive: Any) -> None:
    stream = dllm.stream(autoregressive, (3, 4, 5), max_new_tokens=200)
    first = next(stream)
    assert first.ids and not first.done
    stream.close()
