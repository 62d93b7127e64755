"""Infilling: columns to be written anywhere in what is given; what is given stays, whatever the strategy."""

from __future__ import annotations

from dataclasses import replace

import pytest

import dllm
from dllm import (
    WINO,
    AdaptiveBlocks,
    Blocks,
    CreditDecoding,
    DelayedCache,
    DualCache,
    EqualSplit,
    Infill,
    JointThreshold,
    LeftToRight,
    NoCache,
    Pipeline,
    PrefixCache,
    Request,
    RequestError,
    Saber,
    Sampling,
    SlidingBlock,
    Speculative,
    Stopping,
    Strategy,
    Threshold,
    TopK,
    VariableLength,
    VicinityCache,
    Whole,
)
from dllm.prompts import make_infill_request, make_requests
from dllm.testing import laws
from dllm.testing.cells import Cell, can_rest, find_refusal
from tests.parts import CELLS
from tests.processors.words import WORDS, speaking
from tests.tiny import GEOMETRIES, STOP, tiny_model

ROWS = [
    Request(tuple(range(1, 28)), 0, holes=(3, 4, 5, 12, 22, 23, 26), seed=1),
    Request((5, 2, 8, 8, 8, 1), 9, seed=2, stop_ids=(STOP,)),
    Request((9, 8, 7, 6, STOP, 4, 3, 2, 1, 0), 6, holes=(1, 8), seed=3, stop_ids=(STOP,)),
    Request((9, 8, 7), 0, holes=(1, 2), seed=4),
]
"""Holes in three blocks and at the end; an ordinary row; holes and a tail; one block."""


def others() -> list[Cell]:
    """Cells of parts that edit, move columns, work in several blocks or guess ahead."""
    found = [
        Strategy(WINO(0.3, 0.5), Blocks(8), PrefixCache()),
        Strategy(Saber(), Whole(), NoCache()),
        Strategy(JointThreshold(0.3, 0.2), Blocks(8), DualCache()),
        Strategy(Threshold(0.6), AdaptiveBlocks(delimiters=(4, 8)), DualCache()),
        Strategy(Threshold(0.6), SlidingBlock(8), VicinityCache()),
        Strategy(Threshold(0.6), Pipeline(8), NoCache()),
        Strategy(Threshold(0.6), Blocks(8), DelayedCache()),
        Strategy(TopK(k=1), Blocks(8), Speculative(NoCache(), drafts=3)),
        Strategy(Threshold(0.6), Blocks(8), DualCache(), Sampling(1.0, processors=(CreditDecoding(),))),
    ]
    return [cell for cell in ((g, s) for g in GEOMETRIES for s in found) if find_refusal(cell) is None]


def label(cell: Cell) -> str:
    return f"{cell[0]}-{cell[1].policy}-{cell[1].scheduler}-{cell[1].cache}"


@pytest.mark.parametrize("cell", [*CELLS[::41], *others()], ids=label)
def test_laws_with_holes(cell: Cell) -> None:
    geometry, strategy = cell
    m = tiny_model(geometry)
    stream, results = laws.run_batch(m, ROWS, strategy)
    laws.rows_finish_in_time(m, ROWS, strategy, stream, allowance=16 if can_rest(strategy) else 6)
    laws.every_step_progresses(stream, can_rest(strategy))
    laws.decided_stays(m, ROWS, strategy, stream)
    laws.windows_tile(m, ROWS, strategy, stream)
    laws.rows_are_independent(m, ROWS, strategy, results)
    for row, (request, result) in enumerate(zip(ROWS, results, strict=True)):
        given = [i for i in range(len(request.prompt)) if i not in request.holes]
        assert stream[-1].canvas.tokens[row, given].tolist() == [request.prompt[i] for i in given]
        assert len(result.output_ids) <= len(request.holes) + request.max_new_tokens
        assert len(result.output_ids) == len(result.when)
        assert all(result.when)
        if request.stop_ids:
            assert STOP not in result.output_ids[:-1]
            assert not request.holes or STOP not in result.output_ids[: len(request.holes)]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache()], ids=str)
def test_fresh_is_exact_with_holes(geometry: str, cache: object) -> None:
    strategy = Strategy(Threshold(0.6), Blocks(8), cache)  # type: ignore[arg-type]
    rows = [replace(row, stop_ids=()) for row in ROWS]  # an end token has no chance in a hole
    stream, _ = laws.run_batch(tiny_model(geometry), rows, strategy)
    laws.fresh_is_exact(tiny_model(geometry), rows, strategy, stream)
    refreshed = replace(strategy, cache=DualCache(refresh=1))
    uncached = replace(strategy, cache=NoCache())
    assert dllm.decode(tiny_model(geometry), ROWS, refreshed)[0].output_ids == (
        dllm.decode(tiny_model(geometry), ROWS, uncached)[0].output_ids
    )


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_holes_at_the_end_are_an_ordinary_prompt(geometry: str) -> None:
    """A prompt whose last columns are holes says the same as a shorter prompt with new tokens."""
    strategy = Strategy(TopK(k=2), Blocks(8), NoCache())
    plain = Request((5, 2, 8, 8, 8, 1), 10, stop_ids=())
    holes = Request((5, 2, 8, 8, 8, 1, *[7] * 4), 6, stop_ids=(), holes=(6, 7, 8, 9))
    one, other = dllm.decode(tiny_model(geometry), [plain, holes], strategy)
    assert (one.output_ids, one.when, one.nfe) == (other.output_ids, other.when, other.nfe)


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_nothing_is_written_behind_a_text_that_only_has_holes(geometry: str) -> None:
    """Not even the rest of the last attention block: a token a step takes as many steps as there are holes."""
    row = Request(tuple(range(1, 20)), 0, holes=(3, 4, 17))
    (result,) = dllm.decode(tiny_model(geometry), [row], Strategy(TopK(k=1), Blocks(8), NoCache()))
    assert result.nfe == 3


def test_what_a_hole_held_is_not_looked_at() -> None:
    strategy = Strategy(Threshold(0.6), Blocks(8), DualCache())
    other = replace(ROWS[0], prompt=tuple(99 if i in ROWS[0].holes else x for i, x in enumerate(ROWS[0].prompt)))
    one, two = dllm.decode(tiny_model("bidirectional"), [ROWS[0], other], strategy)
    assert one.output_ids == two.output_ids


def test_an_end_token_ends_a_row_only_behind_the_last_given_column() -> None:
    """Every token is an end token, also those given and those in holes: only the first of the tail ends it."""
    everything = tuple(range(31))
    row = Request((9, 8, 7, 6), 6, holes=(1,), stop_ids=everything)
    for policy in (TopK(k=1), TopK(k=1, score=LeftToRight()), Threshold(0.0)):
        (result,) = dllm.decode(tiny_model("bidirectional"), [row], Strategy(policy, Whole(), NoCache()))
        assert result.stopped
        assert len(result.output_ids) == 2
    hole = replace(row, max_new_tokens=0)
    (result,) = dllm.decode(tiny_model("bidirectional"), [hole], Strategy(TopK(k=1), Whole(), NoCache()))
    assert not result.stopped
    assert len(result.output_ids) == 1


@pytest.mark.parametrize("temperature", [0.0, 5.0])
def test_no_end_token_is_written_into_a_hole(temperature: float) -> None:
    """Not even where the model would write nothing else; an ordinary row beside it may."""
    ends = tuple(range(25))
    rows = [Request((9, 8, 7, 6, 5, 4, 3), 0, holes=(1, 2, 4), stop_ids=ends), Request((9, 8, 7), 6, stop_ids=ends)]
    strategy = Strategy(Threshold(0.5), Blocks(8), DualCache(), Sampling(temperature))
    filled, plain = dllm.decode(tiny_model("bidirectional"), rows, strategy)
    assert min(filled.output_ids) >= 25
    assert plain.stopped


def test_a_stop_string_cuts_the_whole_text() -> None:
    """Stop strings are looked for behind the last given column, and cut there."""
    m = speaking("bidirectional")
    ids = tuple(WORDS.index(w) for w in ("a", "b", "c", "0"))
    (free,) = dllm.decode(m, [Request(ids, 8, holes=(1,), stop_ids=())], Strategy(TopK(k=1), Whole(), NoCache()))
    whole = m.tokenizer.decode([ids[0], free.output_ids[0], *ids[2:], *free.output_ids[1:]])
    assert free.text == whole
    tail = m.tokenizer.decode(free.output_ids[1:])
    word = next(word for word in map(m.tokenizer.decode, free.output_ids[3:]) if word)
    strategy = Strategy(TopK(k=1), Whole(), NoCache(), stopping=Stopping(strings=(word,)))
    (cut,) = dllm.decode(m, [Request(ids, 8, holes=(1,), stop_ids=())], strategy)
    assert cut.stopped
    assert cut.text == whole[: len(whole) - len(tail) + tail.index(word)]


@pytest.mark.parametrize(
    ("request_", "said"),
    [
        (Request((1, 2, 3), 0), "or 0 where there are holes"),
        (Request((1, 2, 3), 0, holes=(0,)), "its first column is given"),
        (Request((1, 2, 3), 0, holes=(3,)), "hole 3"),
        (Request((1, 2, 3), 0, holes=(-1,)), "hole -1"),
        (Request((1, 99, 3), 0, holes=(2,)), "99 is outside"),
    ],
)
def test_impossible_holes(request_: Request, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        dllm.decode(tiny_model("bidirectional"), [request_], Strategy(TopK(k=1), Whole(), NoCache()))


def test_a_paced_policy_fills_in_its_steps() -> None:
    strategy = Strategy(TopK(pace=EqualSplit()), Whole(3), NoCache())
    (result,) = dllm.decode(tiny_model("bidirectional"), ROWS[:1], strategy)
    assert result.nfe == 3


def test_a_growing_row_keeps_what_is_given() -> None:
    """Columns are inserted in front of given ones too, which move and stay what they are."""
    row = Request((9, 8, 7, 6, 5, 4, 3), 24, holes=(2, 5), stop_ids=(STOP,))
    how = Strategy(
        Threshold(0.9, strict=True), VariableLength(initial=4, growth=3, low=0.9, tail=2, ends=(STOP,)), NoCache()
    )
    stream, (result,) = laws.run_batch(tiny_model("bidirectional"), [row], how)
    canvas = stream[-1].canvas
    assert canvas.tokens[0, canvas.rows.given[0]].tolist() == [9, 8, 6, 5, 3]
    assert len(result.output_ids) > 2 + 4


# From text to requests.


def test_holes_of_a_text() -> None:
    m = dllm.load()
    tokenizer = m.tokenizer
    request = make_infill_request(m, Infill("The ____ sat on _a__ mat."))
    pieces = [tokenizer.encode(piece) for piece in ("The ", " sat on _a", " mat.")]
    at = len(pieces[0])
    assert request.holes == (*range(at, at + 4), at + 4 + len(pieces[1]), at + 5 + len(pieces[1]))
    given = [token for i, token in enumerate(request.prompt) if i not in request.holes]
    assert given == [token for piece in pieces for token in piece]
    assert {request.prompt[i] for i in request.holes} == {m.mask_id}
    assert request.max_new_tokens == 0
    sized = make_infill_request(m, Infill("The ____ sat __", hole=3, max_new_tokens=5))
    assert len(sized.holes) == 6
    assert sized.max_new_tokens == 5


def test_filled_text_comes_back_whole() -> None:
    m = dllm.load()
    (result,) = dllm.decode(m, Infill("Tom has 3 apples and __ pears."))
    assert result.text is not None
    assert result.text.startswith("Tom has 3 apples and ")
    assert result.text.endswith(" pears.")
    assert len(result.output_ids) == 2
    both = dllm.decode(m, ["Tom has 3 apples.", Infill("Tom has 3 apples and __ pears.")], max_new_tokens=6)
    assert both[1].text == result.text
    assert both[0].text is not None
    assert not both[0].text.startswith("Tom")


def test_special_tokens_go_around_the_text_and_not_between() -> None:
    class Around:
        """A tokenizer of letters, with 1 before and 2 behind every text."""

        def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
            ids = [ord(letter) for letter in text]
            return [1, *ids, 2] if add_special_tokens else ids

    m = replace(tiny_model("bidirectional"), tokenizer=Around(), mask_id=0)
    request = make_infill_request(m, Infill("__ab__c"))
    assert request.prompt == (1, 0, 0, 97, 98, 0, 0, 99, 2)
    assert request.holes == (1, 2, 5, 6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Infill("no _ hole"), "has no hole"),
        (lambda: Infill("a __", hole=0), "hole=0"),
        (lambda: make_infill_request(speaking("bidirectional"), Infill("__ a")), "begins with a hole"),
        (lambda: make_infill_request(tiny_model("bidirectional"), Infill("a __")), "no tokenizer"),
    ],
)
def test_what_cannot_be_filled(make, said: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(RequestError, match=said):
        make()


def test_one_infill_or_many() -> None:
    m = dllm.load()
    assert make_requests(m, Infill("a __"))[0].seed == 0
    assert [r.seed for r in make_requests(m, [Infill("a __"), Infill("b __")], seed=5)] == [5, 6]
