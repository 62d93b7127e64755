"""Small examples in which every step of an advanced scheduler is known, and what it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from dllm import (
    AdaptiveBlocks,
    ConfigError,
    EqualSplit,
    NoCache,
    Pipeline,
    PrefixCache,
    Request,
    SlidingBlock,
    Stopping,
    Strategy,
    Threshold,
    TopK,
    VariableLength,
    decode,
    load,
)
from dllm.testing import laws
from dllm.testing.tiny import GEOMETRIES, tiny_model
from dllm.types import Scheduler, Step
from tests.schedulers.scripted import END, MASK, Script, Scripted, fixed, moody

PROMPT = (1, 2)


def run(script: Script, scheduler: Scheduler, request: Request, tau: float = 0.5, **fields: Any) -> list[Step]:
    strategy = Strategy(Threshold(tau), scheduler, NoCache(), stopping=Stopping(**fields))
    return laws.run_batch(Scripted(script), [request], strategy)[0]


def scripted(scheduler: Scheduler) -> list[Step]:
    return run(moody, scheduler, Request(PROMPT, 8))


def columns(step: Step, where: str) -> list[int]:
    """Columns of the row that are valid, pending or committed in a step."""
    slots = step.commit if where == "commit" else getattr(step.window, where)
    return step.window.columns[0, slots[0]].tolist()


GIVEN = [(0, 0.9)] * 2


def test_a_block_ends_right_after_the_surest_delimiter() -> None:
    """Columns 4 and 7 hold delimiters above tau, and 7 is the surer; 9 is surer still, but beyond what is searched."""
    new = [(5, 0.6), (5, 0.6), (3, 0.4), (5, 0.6), (5, 0.6), (3, 0.45), (5, 0.9), (3, 0.8), *[(5, 0.9)] * 12]
    scheduler = AdaptiveBlocks(4, tau=0.3, delimiters=(3,), search=0.35)
    first, second, *_ = stream = run(fixed(*GIVEN, *new), scheduler, Request(PROMPT, 20), tau=0.0)
    assert (int(first.window.start), int(first.window.end)) == (2, 9)
    assert columns(first, "valid") == columns(first, "commit") == [2, 3, 4, 5, 6, 7]
    assert columns(second, "valid") == [8, 9]
    assert len(stream) == 5  # no delimiter in what is left: blocks of 4


@pytest.mark.parametrize(("sure", "length"), [(0.299, 4), (0.301, 2)])
def test_a_delimiter_counts_from_tau_on(sure: float, length: int) -> None:
    new = [(5, 0.2), (3, sure), *[(5, 0.2)] * 6]
    first, second, *_ = run(
        fixed(*GIVEN, *new), AdaptiveBlocks(4, tau=0.3, delimiters=(3,), search=1.0), Request(PROMPT, 8)
    )
    assert columns(first, "valid") == columns(second, "valid") == list(range(2, 2 + length))
    assert (len(columns(first, "commit")), len(columns(second, "commit"))) == (1, 1)


def test_delimiters_are_looked_up_in_the_tokenizer() -> None:
    embedded = load("embedded")
    (newline,) = embedded.tokenizer.encode("\n", add_special_tokens=False)
    assert AdaptiveBlocks()._find_delimiter("\n", embedded) == newline
    with pytest.raises(ConfigError, match=r"is \d+ tokens"):
        AdaptiveBlocks(delimiters=("\n\n",))._find_delimiter("\n\n", embedded)
    with pytest.raises(ConfigError, match="no tokenizer"):
        scripted(AdaptiveBlocks())


def test_a_greedy_window_grows_by_what_is_decided_and_a_constant_one_does_not() -> None:
    """Column 2 is never sure; the others are."""
    script = fixed(*GIVEN, (5, 0.2), *[(5, 0.9)] * 9)
    greedy = run(script, SlidingBlock(3), Request(PROMPT, 10))
    assert [columns(s, "commit") for s in greedy] == [[3, 4], [5, 6], [7, 8], [9, 10], [11], [2]]
    assert [int(s.window.end - s.window.start) for s in greedy] == [3, 5, 7, 9, 10, 10]
    constant = run(script, SlidingBlock(3, longest=3), Request(PROMPT, 10))
    assert [columns(s, "commit") for s in constant] == [[3, 4], [2], [5, 6, 7], [8, 9, 10], [11]]
    between = run(script, SlidingBlock(3, longest=5), Request(PROMPT, 10))
    assert [columns(s, "commit") for s in between] == [[3, 4], [5, 6], [2], [7, 8, 9], [10, 11]]


@pytest.mark.parametrize(("longest", "steps"), [(None, [0, 1, 0, 1, 0, 1]), (3, [0, 1, 0, 0, 0])])
def test_a_sliding_block_is_refreshed_once_as_much_as_it_holds_is_decided(
    longest: int | None, steps: list[int]
) -> None:
    stream = run(fixed(*GIVEN, (5, 0.2), *[(5, 0.9)] * 9), SlidingBlock(3, longest), Request(PROMPT, 10))
    decided = [len(columns(s, "commit")) for s in stream]
    since, want = 3, []
    for count in decided:
        want.append(since >= 3)
        since = count if since >= 3 else since + count
    assert [bool(s.window.entered) for s in stream] == want
    assert [int(s.window.step) for s in stream] == steps


def test_only_fully_active_blocks_are_forced() -> None:
    """Blocks of 4: the second is added when a quarter of the first is filled, and forced from the half on."""
    script = fixed(*GIVEN, (5, 0.9), (5, 0.3), (5, 0.2), (5, 0.1), *[(6, 0.3), (6, 0.9), (6, 0.2), (6, 0.1)])
    stream = run(script, Pipeline(4, add=0.25, activate=0.5), Request(PROMPT, 8))
    groups = [s.window.groups[0, s.window.valid[0]].tolist() for s in stream if s.window.groups is not None]
    assert [columns(s, "commit") for s in stream] == [[2], [3, 7], [4, 6], [5, 8], [9]]
    # in step 1 the sure column 7 is decided, 6 is not forced, and the first block decides one though it is unsure
    assert groups[:3] == [[0] * 4, [0] * 4 + [-1] * 4, [0] * 4 + [1] * 4]


def growing(tokens: list[int]) -> list[tuple[int, float]]:
    """End-of-text is sure in the last two columns of rows of 10 columns or more."""
    found = [(5, 0.6)] * len(tokens)
    return [*found[:-2], (END, 0.8), (END, 0.8)] if len(tokens) >= 10 else found


def test_a_row_grows_until_its_end_is_sure() -> None:
    scheduler = VariableLength(4, initial=4, growth=3, enough=0.5, certain=0.0, tail=2, ends=(END,))
    stream = run(growing, scheduler, Request(PROMPT, 20), ids=(END,))  # type: ignore[arg-type]
    assert [int(s.canvas.rows.limit) for s in stream] == [9, 12, 12, 12, 12]
    assert [columns(s, "commit") for s in stream] == [[], [], [2, 3, 4, 5], [6, 7, 8, 9], [10, 11]]
    tight = run(growing, scheduler, Request(PROMPT, 6), ids=(END,))  # type: ignore[arg-type]
    assert [int(s.canvas.rows.limit) for s in tight] == [8, 8, 8]


def test_columns_are_inserted_where_the_model_is_lost() -> None:
    """Column 3 is the worst below `low`: it becomes three columns, and what is right of it moves by two."""

    def script(tokens: list[int]) -> list[tuple[int, float]]:
        if tokens.count(MASK) == 4:
            return [*GIVEN, (7, 0.3), (8, 0.06), (9, 0.08), (4, 0.9)]
        return [(6, 0.9)] * len(tokens)

    scheduler = VariableLength(8, initial=4, growth=3, enough=0.0, certain=0.9, low=0.1, tail=2, ends=(END,))
    stream = run(script, scheduler, Request(PROMPT, 20))  # type: ignore[arg-type]
    first, second = stream
    assert columns(first, "commit") == [5]
    assert first.canvas.tokens[0, :8].tolist() == [1, 2, MASK, MASK, MASK, MASK, MASK, 4]
    assert first.canvas.pending[0, :9].tolist() == [False] * 2 + [True] * 5 + [False] * 2
    assert first.moved is not None
    assert first.moved[0, :9].tolist() == [0, 1, 2, 3, -1, -1, 4, 5, 8]
    assert first.ledger.when[0, :8].tolist() == [0] * 7 + [1]
    assert bool(second.window.entered) and int(second.window.step) == 0
    assert second.canvas.tokens[0, :8].tolist() == [1, 2, 6, 6, 6, 6, 6, 4]


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_what_is_given_behind_a_hole_moves_along(geometry: str) -> None:
    request = Request((3, 7, 1, 0, 22, 9), 9, holes=(2, 3))
    scheduler = VariableLength(8, initial=1, growth=3, enough=0.0, certain=2.0, low=2.0, ends=(30,))
    strategy = Strategy(TopK(k=1), scheduler, PrefixCache())
    stream, (result,) = laws.run_batch(tiny_model(geometry), [request], strategy)
    moved = [s for s in stream if s.moved is not None]
    assert moved
    canvas = stream[-1].canvas
    text = canvas.tokens[0][canvas.rows.given[0]].tolist()
    assert text == [3, 7, 22, 9]
    assert int(canvas.rows.text[0]) > 6 or geometry.startswith("block-causal")
    assert len(result.output_ids) == int(canvas.rows.limit[0]) - 4
    laws.decided_stays(tiny_model(geometry), [request], strategy, stream)


@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_rows_of_many_lengths_do_not_meet(geometry: str, batch_size: int) -> None:
    """Also where a finished row gives its place to another request."""
    generator = torch.Generator().manual_seed(3)
    requests = [
        Request(tuple(torch.randint(0, 29, (n,), generator=generator).tolist()), 3 + 5 * n % 23, seed=n)
        for n in (1, 9, 4, 13, 6)
    ]
    requests.insert(1, Request(tuple(range(1, 13)), 0, holes=(2, 3), seed=7))
    for scheduler in (
        AdaptiveBlocks(8, tau=0.15, delimiters=tuple(range(0, 31, 4)), search=0.5),
        SlidingBlock(3),
        Pipeline(8, add=0.2, activate=0.4),
        VariableLength(8, 4, 3, 0.05, 2.0, 0.3, 4, ends=tuple(range(0, 31, 4))),
    ):
        strategy = Strategy(Threshold(0.35), scheduler, PrefixCache())
        want = decode(tiny_model(geometry), requests, strategy)  # type: ignore[arg-type]
        got = decode(tiny_model(geometry), requests, strategy, batch_size=batch_size)  # type: ignore[arg-type]
        assert [(r.output_ids, r.when, r.nfe) for r in got] == [(r.output_ids, r.when, r.nfe) for r in want]
        assert all(0 not in r.when for r in want), "a column of the output was left undecided"
        closed = torch.zeros(len(requests), dtype=torch.bool)
        for step in laws.run_batch(tiny_model(geometry), requests, strategy)[0] if batch_size == 1 else ():
            assert not (closed & ~step.window.closed).any(), "a finished row was opened again"
            closed = step.window.closed


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda: AdaptiveBlocks(size=0), "size must be at least 1"),
        (lambda: AdaptiveBlocks(tau=-1), "tau must be 0 or more"),
        (lambda: AdaptiveBlocks(search=2), "search must lie in 0..1"),
        (lambda: AdaptiveBlocks(delimiters=()), "delimiters must be"),
        (lambda: AdaptiveBlocks(delimiters="\n"), "delimiters must be"),
        (lambda: SlidingBlock(0), "window must be at least 1"),
        (lambda: SlidingBlock(4, longest=3), "longest must be at least window, 4"),
        (lambda: Pipeline(add=0), "add must be above 0"),
        (lambda: VariableLength(growth=0), "growth and tail must be at least 1"),
        (lambda: VariableLength(low=-0.1), "they are confidences"),
        (lambda: VariableLength(ends=()), "ends must hold an id"),
        (lambda: scripted(VariableLength()), "names no end token"),
        (lambda: Strategy(TopK(pace=EqualSplit()), SlidingBlock(), NoCache()), "plans no steps"),
    ],
)  # fmt: skip
def test_what_is_refused(make: Any, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        make()
