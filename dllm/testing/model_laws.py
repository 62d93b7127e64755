"""Laws of models, each stated once as a function that raises `AssertionError`.

The engine and the caches rely on these and on nothing else that a model does. Decoding with the model is held to the
laws of `dllm.testing.laws`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dllm.caches.memory import ColumnRange
from dllm.errors import ConfigError
from dllm.testing.model_trial import ModelTrial, select_canvas_rows
from dllm.types import Canvas, Query, RowSubset

DRAWS = 8
"""Inputs that are tried where some input has to make a difference."""


def forward_is_repeatable(trial: ModelTrial) -> None:
    """The same query has the same states twice: no dropout, no state beside the store."""
    canvas = trial.canvas()
    trial.assert_same(
        trial.forward(canvas),
        trial.forward(canvas),
        trial.existing(canvas),
        "the same query has other states when it is asked again: call eval(), and keep no state but the store",
    )


def head_gives_logits(trial: ModelTrial) -> None:
    """`head` computes `vocabulary` finite numbers of each state, by itself; they may be overwritten."""
    canvas, model = trial.canvas(), trial.model
    states = trial.forward(canvas)[trial.existing(canvas)].to(model.device)
    with torch.inference_mode():
        logits = model.head(states.clone())
        assert logits.shape == (len(states), model.vocabulary), (
            f"head gave {tuple(logits.shape)} of {len(states)} states: there are {model.vocabulary} logits of each"
        )
        assert not logits.isnan().any(), "head gave NaN"
        assert not logits.isneginf().all(1).any(), "head ruled out every token of a column"
        want = logits.clone()
        logits.fill_(0)  # the loop overwrites logits
        alone = torch.cat([model.head(states[i : i + 1].clone()) for i in range(len(states))])
    trial.assert_same(alone[None], want[None], torch.ones(1, len(want), dtype=torch.bool), "head mixes states")


def rows_do_not_mix(trial: ModelTrial) -> None:
    """A column's logits are the same alone as beside other, longer rows, whatever these and the padding hold."""
    canvas = trial.canvas()
    together = trial.logits(trial.forward(canvas))
    longest = int(canvas.rows.length.argmax())
    for row in range(len(canvas.tokens)):
        alone = select_canvas_rows(canvas, [row])
        there = trial.existing(alone)
        got = trial.logits(trial.forward(alone))
        trial.assert_same(together[row : row + 1], got, there, f"row {row} has other logits alone than in a batch")
        twin = select_canvas_rows(canvas, [row, longest])
        twin = twin._replace(tokens=torch.where(_rows_like(twin) == 1, _redraw(trial, twin, 3), twin.tokens))
        got = trial.logits(trial.forward(twin))[:1]
        trial.assert_same(got, together[row : row + 1], there, f"row {row} depends on what its neighbour holds")


def unseen_columns_change_nothing(trial: ModelTrial) -> None:
    """A column does not depend on any column from `geometry.visible_end` on."""
    canvas = select_canvas_rows(trial.canvas(), [0])
    ends, length = _visible_ends(trial, canvas), int(canvas.rows.length)
    want = trial.forward(canvas)
    for end in sorted(set(ends[0, :length].tolist())):
        changed = torch.where(
            torch.arange(ends.shape[1], device=canvas.tokens.device) >= end, _redraw(trial, canvas, 3), canvas.tokens
        )
        got = trial.forward(canvas._replace(tokens=changed))
        blind = trial.existing(canvas) & (ends <= end)
        trial.assert_same(
            got, want, blind, f"columns that see [0, {end}) depend on column {end} or a later one: is the mask applied?"
        )


def visible_columns_matter(trial: ModelTrial) -> None:
    """A prediction depends, for some input, on the first and on the last column that is visible to it."""
    canvas = select_canvas_rows(trial.canvas(), [0])
    first, left = int(canvas.rows.prompt), trial.model.needs_left
    ends = _visible_ends(trial, canvas)
    for target in (first + 1, int(canvas.rows.length) - 1):
        output = target - left
        visible = [0 if trial.sees_prompt else first, int(ends[0, output]) - 1]
        for column in visible:
            if column not in (target, output):
                assert any(_depends(trial, target, column, seed) for seed in range(DRAWS)), (
                    f"the prediction of column {target}, which comes from the output at {output}, never depends on "
                    f"column {column}, though the geometry {trial.model.geometry} lets it be seen"
                )


def _depends(trial: ModelTrial, target: int, column: int, seed: int) -> bool:
    """Tell whether a prediction changes with the token of a column, for one random input."""
    canvas = select_canvas_rows(trial.canvas(seed), [0])
    other = canvas.tokens.clone()
    other[0, column] = trial.draw_tokens((1,), 50 + seed).to(other.device)
    output = target - trial.model.needs_left
    one, two = (trial.logits(trial.forward(canvas._replace(tokens=x)))[0, output] for x in (canvas.tokens, other))
    return not torch.equal(one, two)


def store_changes_nothing(trial: ModelTrial) -> None:
    """States are the same with and without a store, also where columns are run again in part, or other tokens were."""
    canvas = trial.canvas()
    want, store = trial.forward(canvas), trial.model.store(canvas.tokens.shape[1])
    there = trial.existing(canvas)
    before = canvas._replace(tokens=_redraw(trial, canvas, 5))
    trial.assert_same(
        trial.forward(before, store=store), trial.forward(before), there, "with a store the states are others"
    )
    trial.assert_same(
        trial.forward(canvas, store=store), want, there, "what was stored of a column is not replaced when it is run"
    )
    for span in _spans(trial, canvas):
        trial.assert_same(
            trial.forward(canvas, span, store),
            want,
            _run_columns(span, canvas),
            f"run alone, the columns {span} have other states: is each stored at its own column?",
        )


def finished_blocks_are_stored_in_pieces(trial: ModelTrial) -> None:
    """With attention blocks, block after block runs into a store as the whole row does, the last one more than once."""
    canvas, size = trial.canvas(), trial.model.geometry.block
    if size is None:
        return
    want, store = trial.forward(canvas), trial.model.store(canvas.tokens.shape[1])
    draft = canvas._replace(tokens=torch.where(canvas.pending, _redraw(trial, canvas, 7), canvas.tokens))
    length = canvas.rows.length
    for start in range(0, int(length.max()), size):
        span = ColumnRange(
            torch.minimum(torch.tensor(start), length), torch.minimum(torch.tensor(start + size), length)
        )
        trial.forward(draft, span, store)
        got = trial.forward(canvas, span, store)
        trial.assert_same(
            got, want, _run_columns(span, canvas), f"the block at {start} has other states after its prefix"
        )


def store_keeps_rows(trial: ModelTrial) -> None:
    """`Store.keep` reorders, repeats and drops rows."""
    canvas = trial.canvas()
    want, store = trial.forward(canvas), trial.model.store(canvas.tokens.shape[1])
    trial.forward(canvas, store=store)
    held = list(range(len(trial.sizes)))
    for kept in ([2, 0, 0, 1], [0, 3], [1]):
        store.keep(torch.tensor(kept))
        held = [held[place] for place in kept]
        some = select_canvas_rows(canvas, held)
        span = _spans(trial, some)[0]
        got = trial.forward(some, span, store)
        trial.assert_same(got, want[held], _run_columns(span, some), f"after keep, rows {held} have other states")


def shadow_slots_leave_no_trace(trial: ModelTrial) -> None:
    """Shadow slots (`Query.extra`) are the last keys, are not stored, and change nothing of what does not see them."""
    canvas = select_canvas_rows(trial.canvas(), [0])
    plain, query = trial.forward(canvas), _shadow_query(trial, canvas)
    there, t = trial.existing(canvas), query.width
    model, store = trial.model, trial.model.store(t) if trial.keeps_store else None
    with torch.inference_mode():
        want = model.forward(query, None).cpu()
        shadows = torch.ones(1, want.shape[1], dtype=torch.bool)
        trial.assert_same(want[:, :t], plain[:, :t], there[:, :t], "columns that see no shadow slot depend on them")
        if store is None:
            return
        got = model.forward(query, store).cpu()
        trial.assert_same(got, want, shadows, "with a store, columns or their shadow slots have other states")
    span = ColumnRange(torch.tensor([t - 4]), torch.tensor([t - 3]))
    got = trial.forward(canvas, span, store)
    trial.assert_same(got, plain, _run_columns(span, canvas), "shadow slots were stored")


def _shadow_query(trial: ModelTrial, canvas: Canvas) -> Query:
    """Ask for a whole row, and for its last three columns once more by slots that do not see the column itself."""
    t, extra = int(canvas.rows.length), 3
    columns = torch.cat([torch.arange(t), torch.arange(t - extra, t)])
    blank = 0 if trial.model.mask_id is None else trial.model.mask_id
    tokens = torch.cat([canvas.tokens[0, :t].cpu(), torch.full((extra,), blank)])
    sees = torch.arange(t) < _visible_ends(trial, canvas)[0, columns].unsqueeze(1)
    sees[t:] &= torch.arange(t) != columns[t:].unsqueeze(1)
    mask = torch.cat([sees, torch.nn.functional.pad(torch.eye(extra, dtype=torch.bool), (0, 0, t, 0))], 1)
    given = canvas.rows.given[0, columns]
    device = trial.model.device
    tokens, columns, mask, given = (x.to(device).unsqueeze(0) for x in (tokens, columns, mask, given))
    return Query(tokens, columns, torch.ones_like(given), t, mask.unsqueeze(1), None, extra, given)


def subset_runs_alone(trial: ModelTrial) -> None:
    """A model with `forward_overhead_columns` runs some rows of a store, and leaves the others as they are."""
    if trial.model.forward_overhead_columns is None:
        return
    canvas = trial.canvas()
    want, store = trial.forward(canvas), trial.model.store(canvas.tokens.shape[1])
    b = len(canvas.tokens)
    for rows in ([0, 2], [1], [*range(3, b)]):
        if rows:
            some = select_canvas_rows(canvas, rows)
            got = trial.forward(some, store=store, subset=RowSubset(torch.tensor(rows), b))
            trial.assert_same(got, want[rows], trial.existing(some), f"rows {rows} of a store have other states")
    span = _spans(trial, canvas)[0]
    got = trial.forward(canvas, span, store)
    trial.assert_same(got, want, _run_columns(span, canvas), "a forward of some rows changed what is stored of others")


def block_can_be_set(trial: ModelTrial) -> None:
    """`with_block` makes the same model with other attention blocks; without blocks it is refused."""
    model = trial.model
    size = model.geometry.block
    if size is None:
        try:
            model.with_block(4)
        except ConfigError:
            return
        raise AssertionError("with_block must raise ConfigError where there are no attention blocks")
    other = model.with_block(2 * size)
    assert other.geometry.block == 2 * size, f"with_block({2 * size}) made blocks of {other.geometry.block}"
    assert model.geometry.block == size, "with_block changed the model itself"
    facts = ("vocabulary", "mask_id", "needs_left", "stop_ids", "max_columns")
    changed = [name for name in facts if getattr(other, name) != getattr(model, name)]
    assert not changed, f"with_block changed {changed[0]}"
    unseen_columns_change_nothing(trial.with_model(other))
    visible_columns_matter(trial.with_model(other))


def _visible_ends(trial: ModelTrial, canvas: Canvas) -> Tensor:
    """Compute `visible_end` of every column (b, t), on the host."""
    columns = torch.arange(canvas.tokens.shape[1]).expand(canvas.tokens.shape)
    return trial.model.geometry.visible_end(columns, canvas.rows.length, trial.stored(canvas))


def _redraw(trial: ModelTrial, canvas: Canvas, seed: int) -> Tensor:
    """Draw other tokens for a whole canvas."""
    return trial.draw_tokens(tuple(canvas.tokens.shape), 1000 + seed).to(canvas.tokens.device)


def _rows_like(canvas: Canvas) -> Tensor:
    """Number the rows, (b, 1)."""
    return torch.arange(len(canvas.tokens), device=canvas.tokens.device).unsqueeze(1)


def _spans(trial: ModelTrial, canvas: Canvas) -> list[ColumnRange]:
    """List parts of rows as caches run them: a window alone, rows of which some are idle, and a range with holes."""
    length, stored = canvas.rows.length, trial.stored(canvas)
    idle = (torch.arange(len(length)) % 3 == 1).long()
    zeros = torch.zeros_like(length)
    holes = (torch.arange(canvas.tokens.shape[1]) % 3 == 1).expand(canvas.tokens.shape)
    return [
        ColumnRange(stored, length),
        ColumnRange(torch.where(idle > 0, 0, stored), torch.where(idle > 0, 0, length - 1)),
        ColumnRange(zeros + 1, torch.minimum(length, zeros + 4)),
        ColumnRange(zeros, length, holes),
    ]


def _run_columns(span: ColumnRange, canvas: Canvas) -> Tensor:
    """Mark the columns that a span runs, (b, t)."""
    column = torch.arange(canvas.tokens.shape[1])
    inside = (column >= span.start.unsqueeze(1)) & (column < span.end.unsqueeze(1))
    return inside if span.skip is None else inside & ~span.skip
