"""Views: nothing supervised is lost or learnt twice, what is left out changes nothing, texts of a row do not meet."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm.training.attention import CLEAN, FILLER
from dllm.training.noise import IGNORE
from dllm.training.objective import compute_view_loss, forward_as_published
from dllm.training.views import (
    BlockDiffusion,
    FullDiffusion,
    NextToken,
    PackedRows,
    RowNoise,
    number_blocks,
    widen_view,
)

MASK = 3


@pytest.fixture(scope="module")
def tiny() -> Qwen2ForCausalLM:
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        attn_implementation="sdpa",
    )
    return Qwen2ForCausalLM(config).eval()


@st.composite
def packed_rows(draw: st.DrawFn) -> PackedRows:
    """Rows of up to three texts of any length, anything supervised, some filler behind them."""
    width = draw(st.integers(4, 30))
    rng = torch.Generator().manual_seed(draw(st.integers(0, 99)))
    rows = []
    for _ in range(draw(st.integers(1, 3))):
        ends = sorted(draw(st.sets(st.integers(1, width), min_size=1, max_size=3)))
        sample, position = torch.full((width,), FILLER), torch.zeros(width, dtype=torch.int64)
        for number, (start, stop) in enumerate(zip([0, *ends], ends, strict=False)):
            sample[start:stop], position[start:stop] = number, torch.arange(stop - start)
        tokens = torch.randint(4, 20, (width,), generator=rng)
        unsupervised = torch.rand(width, generator=rng) < draw(st.sampled_from([0.0, 0.5, 0.9]))
        labels = tokens.masked_fill(unsupervised | (sample == FILLER), IGNORE)
        rows.append(PackedRows(tokens, labels, sample, position))
    return PackedRows(*(torch.stack(fields) for fields in zip(*rows, strict=True)))


def texts(packed: PackedRows) -> list[tuple[int, slice]]:
    """(row, columns) of every text."""
    found = []
    for row, sample in enumerate(packed.sample):
        for number in range(int(sample.max()) + 1):
            where = (sample == number).nonzero().flatten()
            found.append((row, slice(int(where[0]), int(where[-1]) + 1)))
    return found


@given(packed_rows(), st.integers(1, 9), st.integers(1, 4), st.integers(0, 99))
def test_both_copies_together_score_every_supervised_token_exactly_once(
    packed: PackedRows, block: int, sub: int, seed: int
) -> None:
    objective = BlockDiffusion(block, sub_block=sub)
    view = objective.view(packed, objective.noise(packed, torch.Generator().manual_seed(seed)), MASK)
    wanted: Counter[tuple[int, int, int, int]] = Counter()
    for row, span in texts(packed):
        for i in range(span.start + 1, span.stop):
            if packed.labels[row, i] != IGNORE:
                wanted[row, int(packed.sample[row, i]), i - span.start, int(packed.labels[row, i])] += 1
    scored: Counter[tuple[int, int, int, int]] = Counter()
    for row, column in (view["labels"] != IGNORE).nonzero().tolist():
        place = (int(view["sample"][row, column]), int(view["position_ids"][row, column]) + 1)
        scored[row, *place, int(view["labels"][row, column])] += 1
        assert view["copy"][row, column] != CLEAN
        shown = [
            int(token)
            for token, copy, sample, position in zip(
                view["input_ids"][row], view["copy"][row], view["sample"][row], view["position_ids"][row], strict=True
            )
            if (int(sample), int(position)) == place and copy == view["copy"][row, column]
        ]
        assert shown in ([], [MASK]), "a scored token is hidden in its own copy"
    assert scored == wanted


@settings(max_examples=25)
@given(packed_rows(), st.integers(1, 9), st.integers(0, 99))
@torch.no_grad()
def test_a_packed_row_costs_what_its_texts_cost_alone(tiny: Any, packed: PackedRows, block: int, seed: int) -> None:
    objective = BlockDiffusion(block)
    noise = objective.noise(packed, torch.Generator().manual_seed(seed))
    view = objective.view(packed, noise, MASK)
    want = 0.0
    for row, span in texts(packed):
        tokens, labels, hidden = (field[row : row + 1, span] for field in (packed.tokens, packed.labels, noise.mask))
        if count := int((labels[:, 1:] != IGNORE).sum()):
            want += count * forward_as_published(tiny, tokens, labels, hidden, block=block, mask_id=MASK)[1].item()
    assert compute_view_loss(tiny, view, block).item() == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert compute_view_loss(tiny, widen_view(view, 16), block).item() == pytest.approx(want, rel=1e-4, abs=1e-4)
    assert widen_view(view, 16)["input_ids"].shape[1] % 16 == 0


def test_without_the_complement_only_the_first_copy_is_scored() -> None:
    packed = one_text(40)
    both, one = BlockDiffusion(8), BlockDiffusion(8, complementary=False)
    noise = one.noise(packed, torch.Generator().manual_seed(0))
    assert set(one.view(packed, noise, MASK)["copy"].flatten().tolist()) == {0, 1}
    few, all_ = (int((each.view(packed, noise, MASK)["labels"] != IGNORE).sum()) for each in (one, both))
    assert few == int(noise.mask[:, 1:].sum()) < all_ == 39


def test_prompt_blocks_appear_once_and_the_last_clean_block_never() -> None:
    packed = one_text(40)
    labels = packed.labels.masked_fill(packed.position < 17, IGNORE)
    objective = BlockDiffusion(8)
    noise = RowNoise(torch.arange(40)[None] % 2 == 0, torch.ones(1, 40))
    view = objective.view(packed._replace(labels=labels), noise, MASK)
    places = Counter(zip(view["copy"][0].tolist(), view["position_ids"][0].tolist(), strict=True))
    assert places == Counter([(0, i) for i in range(32)] + [(c, i) for c in (1, 2) for i in range(16, 40)])


@given(st.integers(1, 12), st.integers(1, 12))
def test_blocks_are_counted_from_each_text(block: int, length: int) -> None:
    sample = torch.tensor([[0] * length + [1] * 5 + [FILLER]])
    position = torch.tensor([[*range(length), *range(5), 0]])
    numbers = number_blocks(PackedRows(sample, sample, sample, position), block)[0].tolist()
    keys = list(zip(sample[0].tolist(), (position[0] // block).tolist(), strict=True))
    assert numbers == [list(dict.fromkeys(keys)).index(key) for key in keys]


def test_a_sub_block_is_what_shares_a_rate() -> None:
    packed = one_text(64)
    rate = BlockDiffusion(32, sub_block=8).noise(packed, torch.Generator().manual_seed(0)).rate[0]
    assert len(set(rate.tolist())) == 8 and all(len(set(part.tolist())) == 1 for part in rate.view(8, 8))


@torch.no_grad()
@pytest.mark.parametrize("shift", [True, False])
def test_full_diffusion_is_the_weighted_loss_of_a_bidirectional_forward(tiny: Any, shift: bool) -> None:
    packed = one_text(12)
    objective = FullDiffusion(shift=shift)
    noise = objective.noise(packed, torch.Generator().manual_seed(1))
    assert len(set(noise.rate[0].tolist())) == 1 and 2 < int(noise.mask.sum()) < 12
    view = objective.view(packed, noise, MASK)
    got = compute_view_loss(tiny, view, objective.attention_block).item()
    everywhere = torch.zeros(1, 1, 12, 12)
    shown = packed.tokens.masked_fill(noise.mask, MASK)
    logits = tiny(input_ids=shown, attention_mask=everywhere, position_ids=packed.position, use_cache=False).logits
    logits, labels, hidden = (
        (logits[:, :-1], packed.tokens[:, 1:], noise.mask[:, 1:]) if shift else (logits, packed.tokens, noise.mask)
    )
    losses = cross_entropy(rearrange(logits, "b t v -> b v t"), labels, reduction="none") * hidden
    assert got == pytest.approx(losses.sum().item() / noise.rate[0, 0].item(), rel=1e-4)
    assert int((view["labels"] != IGNORE).sum()) == labels.numel()


@torch.no_grad()
def test_next_token_is_the_stock_causal_loss(tiny: Any) -> None:
    packed = one_text(12)
    labels = packed.labels.masked_fill(packed.position < 5, IGNORE)
    objective = NextToken()
    view = objective.view(packed._replace(labels=labels), objective.noise(packed), MASK)
    want = tiny(input_ids=packed.tokens, labels=labels).loss.item() * 7
    assert compute_view_loss(tiny, view, objective.attention_block).item() == pytest.approx(want, rel=1e-5)


@torch.no_grad()
def test_a_row_without_supervision_costs_nothing(tiny: Any) -> None:
    packed = one_text(6)._replace(labels=torch.full((1, 6), IGNORE))
    for objective in (BlockDiffusion(4), FullDiffusion(), NextToken()):
        view = objective.view(packed, objective.noise(packed), MASK)
        assert compute_view_loss(tiny, view, objective.attention_block).item() == 0
        assert view["input_ids"].shape == (1, 1)


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0"):
        BlockDiffusion(0).noise(one_text(4))


def one_text(length: int) -> PackedRows:
    tokens = torch.randint(4, 20, (1, length), generator=torch.Generator().manual_seed(1))
    position = torch.arange(length)[None]
    return PackedRows(tokens, tokens.clone(), torch.zeros_like(position), position)
