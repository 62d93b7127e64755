"""Shadow slots: they predict the columns of a window without looking at what the columns hold."""

from __future__ import annotations

import torch
from einops import rearrange
from jaxtyping import Int
from torch import Tensor

from dllm.transfer import to_device
from dllm.types import Canvas, Model, Query, Window


def add_shadow_slots(model: Model, canvas: Canvas, window: Window, rows: Int[Tensor, " r"], query: Query) -> Query:
    """Add to a query one slot for each of the window's, which predicts the column without looking at it.

    A shadow slot holds the mask at its column's place. It sees what the column sees except the column itself, and also
    the other shadow slots. Nothing but shadow slots sees it, and it is not stored.

    With a token-shifted model it holds the token left of the column, since that is where the column is predicted. It
    sees itself in place of that token, and no other shadow slot: those hold tokens.

    What other columns took from the column in the layers below stays in their states. So the prediction is made without
    the column itself, not without all that follows from it.

    Args:
        model: The model.
        canvas: The canvas.
        window: The window.
        rows: Rows of the batch that the query is about (host).
        query: Query of the columns that are run anyway.

    References:
        Hong et al. 2025, WINO (arXiv:2507.18578), for models without token shift and without a cache.
    """
    device = canvas.tokens.device
    there = to_device(rows, device)
    left = model.needs_left
    target, valid = window.columns[there], window.valid[there]
    columns = torch.where(valid, (target - left).clamp(min=0), 0)
    blank = model.mask_id if model.mask_id is not None else 0
    tokens = canvas.tokens[there].gather(1, columns) if left else torch.full_like(columns, blank)
    given = to_device(canvas.rows.given[rows], device).gather(1, columns) & bool(left)
    k, q, width = columns.shape[1], query.tokens.shape[1], query.width
    # How far a shadow slot sees is found on the host, where the facts of the rows are.
    places = (rearrange(window.start[rows], "r -> r 1") + torch.arange(k) - left).clamp(min=0)
    seen = model.geometry.visible_end(places, canvas.rows.length[rows], window.block_start[rows])
    limits = to_device(rearrange(seen, "r k -> r k 1"), device)
    # The mask of the whole query, and the shadow slots' part of it in two halves:
    #
    #                 keys 0 … width - 1                      shadow slots
    #   queries   [   as before                           |   none                                   ]
    #   shadows   [   what the column sees, minus the     |   itself; without token shift also every ]
    #             [   column and the shadow's own place   |   other one within what the column sees  ]
    #
    # Without token shift the column and the shadow's own place are the same. With it, the place on the left is left
    # out because the shadow slot stands there itself, with the same token. As every shadow slot sees itself, the
    # padding among them has a key to look at too, without which its state would be NaN.
    keys = torch.arange(width, device=device)
    sees = (keys < limits) & (keys != rearrange(target, "r k -> r k 1")) & (keys != rearrange(columns, "r k -> r k 1"))
    others = rearrange(valid & (not left), "r k -> r 1 k") & (rearrange(columns, "r k -> r 1 k") < limits)
    lower = torch.cat([sees, others | torch.eye(k, dtype=torch.bool, device=device)], 2)
    upper = torch.ones(len(rows), q, width, dtype=torch.bool, device=device)
    if query.mask is not None:
        upper = rearrange(query.mask, "r 1 q w -> r q w").expand_as(upper)
    upper = torch.cat([upper, torch.zeros(len(rows), q, k, dtype=torch.bool, device=device)], 2)
    return query._replace(
        tokens=torch.cat([query.tokens, tokens], 1),
        columns=torch.cat([query.columns, columns], 1),
        valid=torch.cat([query.valid, valid], 1),
        mask=rearrange(torch.cat([upper, lower], 1), "r q w -> r 1 q w"),
        extra=k,
        given=None if query.given is None else torch.cat([query.given, given], 1),
    )
