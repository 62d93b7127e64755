"""The training attention mask against a brute-force statement of the paper's three rules, and its layouts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers.integrations.flex_attention as flex_integration
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import Qwen2Config, Qwen2ForCausalLM

from dllm.training.attention import (
    FILLER,
    TILE,
    ColumnLayout,
    make_additive_mask,
    make_attention_mask,
    make_block_causal_mask,
    make_flex_mask,
    make_paper_layout,
    make_visibility_mask,
)

lengths, blocks = st.integers(1, 24), st.integers(1, 9)


@st.composite
def layouts(draw: st.DrawFn) -> ColumnLayout:
    """Any columns of any copies of any samples, in any order, with some left out."""
    column = st.tuples(st.integers(0, 20), st.integers(0, 2), st.integers(FILLER, 2))
    position, copy, sample = zip(*draw(st.lists(column, min_size=1, max_size=20, unique=True)), strict=True)
    return ColumnLayout(torch.tensor(position), torch.tensor(copy), torch.tensor(sample))


def rule(query: tuple[int, int, int], key: tuple[int, int, int], block: int) -> bool:
    """M_BD, M_OBC and M_BC of one pair of columns (position, copy, sample), as the paper words them."""
    (i, one, mine), (j, two, theirs) = query, key
    diagonal = one == two and i // block == j // block
    offset = one != 0 and two == 0 and i // block > j // block
    causal = one == two == 0 and i // block >= j // block
    return mine == theirs and (diagonal or offset or causal)


def brute_force(layout: ColumnLayout, block: int) -> list[list[bool]]:
    columns = list(zip(*(field.tolist() for field in layout), strict=True))
    return [[rule(query, key, block) for key in columns] for query in columns]


@given(lengths, blocks)
def test_the_paper_layout_sees_exactly_what_its_rules_say(length: int, block: int) -> None:
    layout = make_paper_layout(length)
    assert layout.position.tolist() == [*range(length), *range(length)]
    assert make_visibility_mask(layout, block).tolist() == brute_force(layout, block)


@given(layouts(), blocks)
def test_any_layout_sees_exactly_what_the_rules_say(layout: ColumnLayout, block: int) -> None:
    assert make_visibility_mask(layout, block).tolist() == brute_force(layout, block)


@given(layouts(), layouts(), blocks)
def test_rows_of_a_batch_have_masks_of_their_own(one: ColumnLayout, two: ColumnLayout, block: int) -> None:
    size = min(len(one.copy), len(two.copy))
    one, two = (ColumnLayout(*(field[:size] for field in each)) for each in (one, two))
    both = ColumnLayout(*(torch.stack(pair) for pair in zip(one, two, strict=True)))
    assert torch.equal(
        make_visibility_mask(both, block),
        torch.stack((make_visibility_mask(one, block), make_visibility_mask(two, block))),
    )


@settings(max_examples=15)
@given(layouts(), blocks)
def test_the_flex_mask_is_the_dense_one(layout: ColumnLayout, block: int) -> None:
    both = ColumnLayout(*(torch.stack((field, field.flip(0))) for field in layout))
    size = both.position.shape[1]
    mask = make_flex_mask(both, block)
    dense = create_mask(mask.mask_mod, 2, 1, size, size, device="cpu")
    assert torch.equal(dense[:, 0], make_visibility_mask(both, block))
    tiles = mask.to_dense()
    assert tiles.shape == (2, 1, 1, 1) and tiles.all()


def test_the_flex_mask_leaves_out_tiles_that_nobody_sees() -> None:
    layout = make_paper_layout(2 * TILE)
    row = ColumnLayout(*(field[None] for field in layout))
    tiles = make_flex_mask(row, 32).to_dense()[0, 0].bool()
    blocks = make_visibility_mask(layout, 32).view(4, TILE, 4, TILE).transpose(1, 2).flatten(2).any(-1)
    assert torch.equal(tiles, blocks) and 0 < int(tiles.sum()) < 16


@torch.no_grad()
def test_flex_attention_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Uncompiled, which is all that a CPU offers; compiled kernels need a GPU."""
    monkeypatch.setattr(flex_integration, "compile_friendly_flex_attention", eager_flex)
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=20,
        hidden_size=32,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
    )
    model = Qwen2ForCausalLM(config).eval()
    layout = ColumnLayout(*(field[None] for field in make_paper_layout(40)))
    tokens = torch.randint(4, 20, (1, 80))
    logits = {}
    for kind in ("eager", "sdpa", "flex_attention"):
        model.set_attn_implementation(kind)
        mask = make_attention_mask(model, layout, 8)
        logits[kind] = model(
            input_ids=tokens, attention_mask=mask, position_ids=layout.position, use_cache=False
        ).logits
    for kind in ("sdpa", "flex_attention"):
        assert torch.allclose(logits[kind], logits["eager"], atol=1e-4), kind


def eager_flex(query: Tensor, key: Tensor, value: Tensor, training: bool = False, **options: Any) -> Any:
    return flex_attention(query, key, value, **options)


@given(lengths, blocks)
def test_inference_is_the_clean_copy_alone(length: int, block: int) -> None:
    want = [[i // block >= j // block for j in range(length)] for i in range(length)]
    assert make_block_causal_mask(length, block).tolist() == want


def test_the_additive_mask_is_zero_where_allowed_and_very_low_elsewhere() -> None:
    mask = make_additive_mask(torch.tensor([[True, False]]))
    assert mask.shape == (1, 1, 1, 2)
    assert mask[0, 0, 0, 0] == 0 and mask[0, 0, 0, 1] == torch.finfo(torch.float32).min


def test_a_block_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="block=0"):
        make_visibility_mask(make_paper_layout(4), 0)
