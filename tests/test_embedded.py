"""The embedded model: it loads, answers problems it has never seen, and its neighbours in a batch change nothing."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest

import dllm
from dllm import Blocks, DualCache, Factor, LeftToRight, NoCache, PrefixCache, Strategy, Threshold, TopK
from dllm.compose.options import Options
from experiments.embedded_text import generate_examples, is_correct, is_held_out

PROBLEMS = list(islice(generate_examples("tests", held=True, kinds=("word",)), 24))


@pytest.fixture(scope="module")
def embedded():
    return dllm.load("embedded", device="cpu")


def test_it_is_small() -> None:
    folder = Path(dllm.__file__).parent / "models" / "embedded"
    assert sum(p.stat().st_size for p in folder.iterdir()) < 20e6


@pytest.mark.parametrize(
    ("strategy", "least"),
    [
        (Strategy(TopK(k=1, score=LeftToRight()), Blocks(commit=True), PrefixCache()), 18),
        (Strategy(Threshold(0.9), Blocks(sub_block=8, commit=True), DualCache(while_first=True)), 17),
        (Strategy(Factor(1.0), Blocks(), NoCache()), 15),
    ],
    ids=str,
)
def test_it_answers_unseen_problems(embedded, strategy: Strategy, least: int) -> None:
    assert all(is_held_out(p.prompt) for p in PROBLEMS)
    results = dllm.decode(embedded, [p.prompt for p in PROBLEMS], strategy, max_new_tokens=96)
    right = sum(is_correct(p, r.text or "") for p, r in zip(PROBLEMS, results, strict=True))
    assert right >= least
    assert all(r.stopped for r in results)


def test_the_first_command_of_the_readme(embedded) -> None:
    strategy = Options(policy="factor", f=1.0, cache="dual").strategy(embedded, 128)
    together = dllm.decode(embedded, [p.prompt for p in PROBLEMS[:8]], strategy)
    for problem, result in zip(PROBLEMS[:4], together, strict=False):
        (alone,) = dllm.decode(embedded, problem.prompt, strategy)
        assert (alone.text, alone.nfe) == (result.text, result.nfe)
    assert max(r.tokens_per_forward for r in together) > 1.5


def test_stop_strings_end_the_answer_and_are_left_out_of_the_text(embedded) -> None:
    plain = Strategy(Threshold(0.9), Blocks(sub_block=8, commit=True), PrefixCache())
    stopping = dllm.Stopping(strings=("####",))
    prompts = [p.prompt for p in PROBLEMS[:6]]
    for free, stopped in zip(
        dllm.decode(embedded, prompts, plain),
        dllm.decode(embedded, prompts, Strategy(plain.policy, plain.scheduler, plain.cache, stopping=stopping)),
        strict=True,
    ):
        assert free.text
        assert stopped.text == free.text[: free.text.index("####")]
        assert stopped.output_ids == free.output_ids[: len(stopped.output_ids)]
        assert stopped.nfe <= free.nfe
        assert stopped.stopped
