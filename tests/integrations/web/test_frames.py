"""Frames agree with the stream of steps, and recording changes no answer."""

from __future__ import annotations

import threading

import pytest
import torch

from dllm.api import decode
from dllm.compose.options import Options
from dllm.engine.autoregressive import Autoregressive
from dllm.integrations.web.causal import generate_with_frames
from dllm.integrations.web.controls import AnswerSettings
from dllm.integrations.web.figures_html import measure_run
from dllm.integrations.web.runs import RunStatus
from dllm.prompts import encode_prompt
from dllm.requests import Request
from dllm.strategy import Sampling
from tests.integrations.web.conftest import CAUSAL, finished

QUESTION = [{"role": "user", "content": "Tom has 3 apples and buys 4 more. How many apples has Tom?"}]
POLICIES = ("threshold", "factor", "wino", "top-k(k=2)", "saber")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("top", ["0", "3"])
def test_a_recorded_answer_is_the_plain_one(library, policy, top):
    name, _, rest = policy.partition("(")
    parts = {"policy": (name, tuple(rest.strip("k=)") if rest else "" for _ in range(bool(rest))))}
    run = finished(
        library.start_answer(AnswerSettings("embedded", parts=parts, max_new_tokens="48", top=top), QUESTION)
    )
    model = library.model("embedded")
    request = Request(encode_prompt(model, QUESTION), 48, seed=0)
    plain = decode(model, request, Options(policy=policy).strategy(model, 48))[0]
    assert run.state is RunStatus.DONE, run.error
    assert (run.result.output_ids, run.result.nfe, run.result.when) == (plain.output_ids, plain.nfe, plain.when)
    last = run.frames[-1]
    length = len(plain.output_ids)
    assert tuple(last.tokens[:length]) == plain.output_ids
    assert tuple(last.when[:length]) == plain.when
    assert all(len(guess.top) == max(1, int(top)) for frame in run.frames for guess in frame.guesses.values())


def test_what_is_new_was_pending_and_was_guessed(library):
    run = finished(library.start_answer(AnswerSettings("embedded", max_new_tokens="48"), QUESTION))
    pending = set(range(48))
    for frame in run.frames:
        assert frame.new <= pending
        assert frame.new <= set(frame.guesses)
        assert all(frame.tokens[i] == frame.guesses[i].token for i in frame.new)
        assert all(frame.confidences[i] == frame.guesses[i].confidence for i in frame.new)
        assert all(guess.top[0][1] >= guess.top[-1][1] for guess in frame.guesses.values())
        pending -= frame.new
    seconds = [frame.seconds for frame in run.frames]
    assert seconds == sorted(seconds) and seconds[0] > 0


def test_columns_that_move_are_followed(library):
    """Record a scheduler of variable length, which changes how many columns there are."""
    parts = {"scheduler": ("variable", ("16",))}
    run = finished(
        library.start_answer(AnswerSettings("embedded", recipe="daedal", parts=parts, max_new_tokens="64"), QUESTION)
    )
    if run.state is RunStatus.FAILED:
        pytest.skip(run.error)
    assert all(len(frame.confidences) == len(frame.tokens) for frame in run.frames)


def test_a_causal_model_has_a_frame_for_each_token(library):
    run = finished(library.start_answer(AnswerSettings(CAUSAL, max_new_tokens="12", stop="never"), QUESTION))
    assert run.state is RunStatus.DONE, run.error
    assert [frame.decided for frame in run.frames] == list(range(1, len(run.frames) + 1))
    assert tuple(run.frames[-1].tokens[: len(run.result.output_ids)]) == run.result.output_ids
    assert run.result.nfe == len(run.result.output_ids)
    for frame in run.frames:
        (guess,) = frame.guesses.values()
        assert guess.top[0][0] == guess.token and 0 < guess.confidence <= 1


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_causal_frame_has_the_probabilities_of_the_model(library, temperature):
    """Compare with one forward over the whole text; sampling changes the tokens, not the probabilities shown."""
    model, frames = library.model(CAUSAL), []
    request, plan = Request((1, 2, 3), 12, stop_ids=(), seed=4), Autoregressive(Sampling(temperature))
    result = generate_with_frames(model, request, plan, 2, frames.append, lambda: False)
    with torch.inference_mode():
        logits = model.network(torch.tensor([[*request.prompt, *result.output_ids]])).logits[0, 2:-1]
    expected = logits.float().softmax(-1)[range(12), list(result.output_ids)]
    assert [*frames[-1].confidences] == pytest.approx(expected.tolist(), rel=1e-4)
    assert [frame.guesses[i].token for i, frame in enumerate(frames)] == list(result.output_ids)


def test_a_causal_answer_ends_with_the_frame_at_which_it_is_stopped(library):
    model, frames, threads = library.model(CAUSAL), [], set(threading.enumerate())
    request = Request((1, 2, 3), 200, stop_ids=())
    assert generate_with_frames(model, request, Autoregressive(), 1, frames.append, lambda: len(frames) == 3) is None
    assert len(frames) == 3
    assert set(threading.enumerate()) <= threads


@pytest.mark.parametrize("label", ["embedded", CAUSAL])
def test_a_run_can_be_stopped(library, label):
    run = library.start_answer(
        AnswerSettings(label, parts={"policy": ("top-k", ("1",))}, max_new_tokens="256"), QUESTION
    )
    while not run.frames:
        assert run.state is not RunStatus.FAILED, run.error
    run.stop()
    finished(run)
    assert run.state in (RunStatus.STOPPED, RunStatus.DONE)
    assert run.state is RunStatus.STOPPED or len(run.frames) < 256
    assert measure_run(run).tokens == run.frames[-1].decided or run.state is RunStatus.DONE


def test_watching_shows_every_frame_in_slow_motion_and_the_last_one_always(library):
    run = library.start_answer(AnswerSettings("embedded", max_new_tokens="32"), QUESTION)
    assert list(run.watch(pause=0.001))[-1] == len(run.frames)
    shown = [n for n in run.watch(pause=0.001) if n]
    assert sorted(set(shown)) == list(range(1, len(run.frames) + 1))
    assert list(run.watch())[-1] == len(run.frames)
