"""The losses: block diffusion as published, and every objective over its cheaper view.

Block diffusion's loss is the mean cross entropy over masked supervised positions, without a 1/t weight. The logits at
column i - 1 predict column i (the token shift), so that a label at a text's first position is never used.

References:
    Wu et al. 2025, Fast-dLLM v2 (arXiv:2509.26328), section 3.2, and the training forward of its published model.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.functional import cross_entropy

from dllm.training.attention import (
    ColumnLayout,
    make_additive_mask,
    make_attention_mask,
    make_paper_layout,
    make_visibility_mask,
)
from dllm.training.noise import IGNORE, complement_mask, select_noised_labels
from dllm.training.views import BlockDiffusion, PackedRows, RowNoise


def compute_shifted_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute the mean cross entropy of logits (b, t, v) at column i - 1 against labels (b, t) at column i.

    Labels equal to `IGNORE` are left out.
    """
    return cross_entropy(
        rearrange(logits[:, :-1], "b t v -> (b t) v").float(),
        rearrange(labels[:, 1:], "b t -> (b t)"),
        ignore_index=IGNORE,
    )


def forward_as_published(
    model: Any, tokens: Tensor, labels: Tensor, noised: Tensor, *, block: int, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Run the published training forward on a stock causal model, each row noised and complemented, as [x_t ; x_0].

    Args:
        model: Stock causal model.
        tokens: (b, t) int64, the texts.
        labels: (b, t) int64, as in `draw_noise`.
        noised: (b, t) bool, the mask that `draw_noise` returns.
        block: Columns of a block.
        mask_id: Id of the mask token.

    Returns:
        Logits of the noised halves (2b, t, v), rows of `noised` before those of its complement; and the loss.
    """
    both = torch.cat((noised, complement_mask(noised, labels)))
    clean = repeat(tokens, "b t -> (c b) t", c=2)
    layout = make_paper_layout(tokens.shape[1], tokens.device)
    out = model(
        input_ids=torch.cat((clean.masked_fill(both, mask_id), clean), dim=1),
        attention_mask=make_additive_mask(make_visibility_mask(layout, block)),
        position_ids=rearrange(layout.position, "k -> 1 k"),
        use_cache=False,
    )
    logits = out.logits[:, : tokens.shape[1]]
    return logits, compute_shifted_loss(logits, select_noised_labels(repeat(labels, "b t -> (c b) t", c=2), both))


def compute_view_loss(model: Any, view: Mapping[str, Tensor], block: int) -> Tensor:
    """Sum the weighted cross entropies of a view, through the model's stock forward.

    Divide the sum by the number of labels that are not `IGNORE` for the mean.

    Args:
        model: Network, possibly wrapped for several processes.
        view: View of a batch, as an objective makes it.
        block: The objective's `attention_block`.
    """
    layout = ColumnLayout(view["position_ids"], view["copy"], view["sample"])
    labels = view["labels"]
    logits = model(
        input_ids=view["input_ids"],
        attention_mask=make_attention_mask(getattr(model, "module", model), layout, block),
        position_ids=view["position_ids"],
        logits_to_keep=torch.arange(labels.shape[1], device=labels.device),
        use_cache=False,
    ).logits
    losses = cross_entropy(
        rearrange(logits, "b m v -> (b m) v").float(),
        rearrange(labels, "b m -> (b m)"),
        ignore_index=IGNORE,
        reduction="none",
    )
    return (losses * rearrange(view["weights"], "b m -> (b m)")).sum()


def compute_diffusion_loss(
    model: Any, tokens: Tensor, labels: Tensor, noised: Tensor, *, block: int, mask_id: int
) -> tuple[Tensor, int]:
    """Compute the loss of `forward_as_published` at less cost, with one text a row and the view of `BlockDiffusion`.

    Returns:
        The loss, and the number of positions that the model ran on (all rows together).
    """
    position = repeat(torch.arange(tokens.shape[1], device=tokens.device), "t -> b t", b=len(tokens))
    packed = PackedRows(tokens, labels, torch.zeros_like(position), position)
    view = BlockDiffusion(block).view(packed, RowNoise(noised, torch.ones(noised.shape, device=noised.device)), mask_id)
    return compute_view_loss(model, view, block) / (view["labels"] != IGNORE).sum(), view["input_ids"].numel()
