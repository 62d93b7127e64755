"""Shadow slots: what they predict, against a mask written here; and that nothing else notices them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from dllm import WINO, Blocks, DualCache, NoCache, PrefixCache, Request, Strategy, Whole, theory
from dllm.engine.commit import open_decided_slots
from dllm.models.tabular import TabularModel
from dllm.requests import make_canvas
from dllm.signals import Shadow
from dllm.testing import laws
from dllm.types import Bidirectional, BlockCausal, HostView, Step
from tests.tiny import MASK, STOP, tiny_model, tiny_network

REQUESTS = [
    Request((3, 7, 1, 22, 9), max_new_tokens=13, seed=1),
    Request((5, 2, 8, 8, 8, 1, 0, 4, 17, 20, 11), max_new_tokens=8, seed=2, stop_ids=(STOP,)),
]
POLICY = WINO(0.3, 0.2)


def run(m, cache, scheduler=Blocks(8), requests=REQUESTS) -> list[Step]:
    return laws.run_batch(m, requests, Strategy(POLICY, scheduler, cache))[0]


def decided(step: Step, row: int) -> list[int]:
    """Columns whose shadow a step gave: those of the answer that were decided when the model looked."""
    window = step.window
    return window.columns[row, window.answer[row] & ~window.pending[row]].tolist()


@torch.inference_mode()
def published(tokens: torch.Tensor, block: list[int], seen, shift: int = 0) -> dict[int, torch.Tensor]:
    """Marginals of the columns of a block by WINO's mask, in one plain forward over a row (t,) and the block's shadows.

    seen  whether a query at one column may look at another
    """
    t, k = len(tokens), len(block)
    place = [*range(t), *(column - shift for column in block)]
    ids = [*tokens.tolist(), *(int(tokens[c - 1]) if shift else MASK for c in block)]
    allowed = torch.zeros(t + k, t + k, dtype=torch.bool)
    for query in range(t + k):
        for key in range(t + k):
            if query < t:
                allowed[query, key] = key < t and seen(query, key)
            elif key < t:
                allowed[query, key] = seen(place[query], key) and key not in (block[query - t], place[query])
            else:
                allowed[query, key] = query == key or (not shift and seen(place[query], place[key]))
    net = tiny_network(shift)
    out = net(
        input_ids=torch.tensor([ids]),
        position_ids=torch.tensor([place]),
        attention_mask=torch.where(allowed, 0.0, torch.finfo(torch.float32).min)[None, None],
        use_cache=False,
        is_causal=False,
    )
    chances = out.logits[0].float().softmax(-1)
    return {column: chances[t + i] for i, column in enumerate(block)}


def bidirectional(query: int, key: int) -> bool:
    return True


def block_causal(query: int, key: int) -> bool:
    return key // 8 <= query // 8


CASES = [
    ("bidirectional", bidirectional, NoCache(), Blocks(8)),
    ("bidirectional", bidirectional, NoCache(), Whole()),
    ("bidirectional", bidirectional, DualCache(refresh=1), Blocks(8, sub_block=4)),
    ("bidirectional", bidirectional, PrefixCache(refresh=1), Blocks(8)),
    ("bidirectional-shift", bidirectional, NoCache(), Blocks(8)),
    ("bidirectional-shift", bidirectional, DualCache(refresh=1), Blocks(8)),
    ("block-causal", block_causal, NoCache(), Blocks(8)),
    ("block-causal", block_causal, PrefixCache(), Blocks(8)),
    ("block-causal", block_causal, NoCache(), Whole()),
    ("block-causal-shift", block_causal, PrefixCache(), Blocks(8)),
]


@pytest.mark.parametrize(
    ("geometry", "seen", "cache", "scheduler"), CASES, ids=lambda x: getattr(x, "__name__", str(x))
)
def test_a_shadow_is_what_the_published_mask_gives(geometry, seen, cache, scheduler) -> None:
    m = tiny_model(geometry)
    stream = run(m, cache, scheduler)
    before, compared = laws.make_first_canvas(m, REQUESTS, Strategy(POLICY, scheduler, cache)), 0
    for step in stream:
        for row in range(len(REQUESTS)):
            columns = decided(step, row)
            if not columns:
                continue
            end = int(before.rows.length[row]) if seen is bidirectional else int(step.window.block_end[row])
            block = step.window.columns[row, step.window.valid[row]].tolist()
            want = published(before.tokens[row, :end], block, seen, m.needs_left)
            for column in columns:
                got = step.guess[Shadow()][row, block.index(column)]
                torch.testing.assert_close(got, want[column][before.tokens[row, column]], atol=2e-5, rtol=1e-4)
                compared += 1
        assert (step.guess[Shadow()][~step.window.answer | step.window.pending] == 0).all()
        before = step.canvas
    assert compared > 20


@pytest.mark.parametrize("geometry", ["bidirectional", "bidirectional-shift", "block-causal", "block-causal-shift"])
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(), DualCache(), DualCache(refresh=2)], ids=str)
def test_shadows_change_nothing_for_the_others(geometry: str, cache) -> None:
    """The same steps with and without them: the same predictions, and the same keys and values kept for later."""
    m, strategy = tiny_model(geometry), Strategy(POLICY, Blocks(8, sub_block=4), cache)
    stream = run(m, cache, strategy.scheduler)
    with torch.inference_mode():
        memories = [cache.init(laws.make_first_canvas(m, REQUESTS, strategy), m) for _ in range(2)]
        canvas = laws.make_first_canvas(m, REQUESTS, strategy)
        for step in stream:
            seen = [None, None]
            for i, window in enumerate((step.window, step.window._replace(shadow=False))):
                seen[i], memories[i] = cache.step(m, canvas, window, memories[i])
            torch.testing.assert_close(seen[0].hidden, seen[1].hidden, atol=2e-5, rtol=1e-4)
            assert seen[0].shadow is not None and seen[1].shadow is None
            extra = (step.window.end - step.window.start) * (seen[1].queries > 0)
            assert seen[0].queries.tolist() == (seen[1].queries + extra).tolist() == step.queries.tolist()
            assert seen[0].fresh.tolist() == seen[1].fresh.tolist()
            canvas = step.canvas
        for ours, theirs in zip(*(getattr(x.store, "layers", []) for x in memories), strict=True):
            torch.testing.assert_close(ours, theirs, atol=2e-5, rtol=1e-4)


def test_a_forward_is_one_and_its_columns_are_counted() -> None:
    stream = run(tiny_model("bidirectional"), NoCache(), requests=REQUESTS[:1])
    widths = [int(s.window.end[0] - s.window.start[0]) for s in stream]
    assert [int(s.queries[0]) for s in stream] == [18 + k for k in widths] and set(widths) == {8, 5}
    assert [int(s.nfe[0]) for s in stream] == list(range(1, len(stream) + 1))
    lanes = replace(tiny_model("bidirectional"))
    lanes.lanes = 2
    doubled = run(lanes, NoCache(), requests=REQUESTS[:1])
    assert [int(s.queries[0]) for s in doubled] == [2 * (18 + k) for k in widths]


@pytest.mark.parametrize("shift", [0, 1])
@pytest.mark.parametrize("geometry", [Bidirectional(), BlockCausal(2)], ids=str)
@pytest.mark.parametrize("cache", [NoCache(), PrefixCache(refresh=1), DualCache(refresh=1)], ids=str)
def test_where_only_tokens_speak_a_shadow_leaves_exactly_one_out(shift: int, geometry, cache) -> None:
    """The tabular oracle passes nothing on between columns: a shadow is the marginal given all others it may see."""
    generator = torch.Generator().manual_seed(shift)
    joint = torch.rand((3,) * 5, generator=generator, dtype=torch.float64) ** 4
    joint = joint / joint.sum()
    m = TabularModel(joint, geometry=geometry, needs_left=shift)
    request = Request((0,), 5)
    stream, _ = laws.run_batch(m, [request], Strategy(WINO(tau=1.0, verify=0.0), Whole(), cache))  # one column a step
    before, compared = make_canvas(m, [request]), 0
    for step in stream:
        tokens, pending = before.tokens[0, 1:6], before.pending[0, 1:6]
        for column in decided(step, 0):
            if column > 5:
                continue
            others = ~pending & (torch.arange(5) != column - 1)
            if isinstance(geometry, BlockCausal):
                others &= torch.arange(1, 6) // 2 <= (column - shift) // 2
            want = theory.marginals(theory.condition_joint(joint, tokens, others), 5)[column - 1][tokens[column - 1]]
            slot = step.window.columns[0].tolist().index(column)
            torch.testing.assert_close(step.guess[Shadow()][0, slot].double(), want, atol=1e-5, rtol=1e-5)
            compared += 1
        before = step.canvas
    assert compared >= 3


def test_the_window_asks_for_logits_where_an_answer_stands() -> None:
    m = tiny_model("bidirectional")
    canvas = make_canvas(m, REQUESTS)
    canvas = canvas._replace(pending=canvas.pending & (torch.arange(canvas.tokens.shape[1]) % 2 == 0))
    window, _ = Whole().step(canvas, HostView.of(canvas), Whole().init(canvas, m))
    seen = open_decided_slots(window, canvas)
    assert seen.slots.tolist() == seen.answer.flatten().nonzero().flatten().tolist()
    assert seen.answer.sum(1).tolist() == [13, 8] and HostView.of(canvas).pending.sum(1).tolist() == [6, 4]
