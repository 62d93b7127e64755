"""From a policy's verdict to what is really done: the guarantees that no policy can break."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.errors import ConfigError
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Policy, Verdict, Window, mask_scores


class StepChange(NamedTuple):
    """The change that a step makes.

    Attributes:
        commit: Slots that are written: pending ones, and decided ones that are replaced.
        tokens: Tokens that are written there.
        score: The policy's order of preference.
        revoke: Decided slots that are made pending again. None if the policy does not edit.
        hold: Rows that stay in their range. None likewise.
    """

    commit: Bool[Tensor, "b k"]
    tokens: Int[Tensor, "b k"]
    score: Float[Tensor, "b k"]
    revoke: Bool[Tensor, "b k"] | None = None
    hold: Bool[Tensor, " b"] | None = None


def open_decided_slots(window: Window, canvas: Canvas) -> Window:
    """Give decided slots logits too, for a policy that judges these."""
    k = window.columns.shape[1]
    columns = rearrange(window.start, "b -> b 1") + torch.arange(k)
    given = canvas.rows.given
    answer = (columns < rearrange(window.end, "b -> b 1")) & ~given.gather(1, columns.clamp(max=given.shape[1] - 1))
    device, slots = window.columns.device, answer.flatten().nonzero().flatten()
    return window._replace(slots=to_device(slots, device), host_slots=slots, answer=to_device(answer, device))


def exclude_deferred_slots(window: Window, canvas: Canvas) -> Window:
    """Leave out of the answer what is undecided and yet not this step's to commit (`Scheduler.refine`)."""
    if window.answer is None:
        return window
    return window._replace(answer=window.answer & (window.pending | ~window.take(canvas.pending)))


def enforce_progress(verdict: Verdict, window: Window) -> Bool[Tensor, "b k"]:
    """Choose the pending slots to commit: the accepted ones, and at least one of every row.

    A row, or a group of slots of a row, that accepts nothing commits its best slot, unless its pace rests.

    Raises:
        ConfigError: A policy's step gave no verdict.
    """
    if not isinstance(verdict, Verdict):
        raise ConfigError(
            f"the policy's step gave ({type(verdict).__name__}, state): return (Verdict(accept, score), state)"
        )
    accept = verdict.accept & window.pending
    score = mask_scores(verdict.score, window.pending)
    works = None if verdict.rest is None else ~verdict.rest | to_device(window.forced, verdict.rest.device)
    if window.groups is not None:
        best_ones = _best_of_groups(score, accept, window)
        return accept | (best_ones if works is None else best_ones & rearrange(works, "b -> b 1"))
    best = torch.where(accept, torch.inf, score).argmax(1, keepdim=True)  # one that is accepted, if any is
    may = window.pending if works is None else accept | (window.pending & rearrange(works, "b -> b 1"))
    return accept.scatter_(1, best, may.gather(1, best))


def _best_of_groups(score: Float[Tensor, "b k"], accept: Bool[Tensor, "b k"], window: Window) -> Bool[Tensor, "b k"]:
    """Find the best pending slot of each group in which nothing is accepted; ties go to the leftmost."""
    assert window.groups is not None
    k = score.shape[1]
    same = rearrange(window.groups, "b k -> b k 1") == rearrange(window.groups, "b k -> b 1 k")
    stuck = window.pending & (window.groups >= 0) & ~(same & rearrange(accept, "b k -> b 1 k")).any(2)
    place = torch.arange(k, device=score.device)
    rival = same & rearrange(window.pending, "b k -> b 1 k")
    theirs, own = rearrange(score, "b k -> b 1 k"), rearrange(score, "b k -> b k 1")
    earlier = rearrange(place, "k -> 1 1 k") < rearrange(place, "k -> 1 k 1")
    beaten = (rival & ((theirs > own) | ((theirs == own) & earlier))).any(2)
    return stuck & ~beaten


def decide_change(
    policy: Policy,
    verdict: Verdict,
    canvas: Canvas,
    guess: Guess,
    window: Window,
    commit: Bool[Tensor, "b k"],
    mask_id: int | None,
) -> StepChange:
    """Decide what the step does, within what the policy may do.

    Args:
        policy: The policy.
        verdict: Its verdict.
        canvas: The canvas before the step.
        guess: What the model predicted.
        window: The window.
        commit: Pending slots that are committed.
        mask_id: The mask token, which is never written as an answer.
    """
    tokens = guess.tokens
    if policy.chooses_tokens and verdict.tokens is not None:
        storing = to_device(
            window.commit, commit.device
        )  # what such a row writes is decided greedily, as candidates are
        candidate = rearrange(storing, "b -> b 1") | (verdict.tokens == (-1 if mask_id is None else mask_id))
        tokens = torch.where(candidate, guess.tokens, verdict.tokens)
    if not policy.edits:
        return StepChange(commit, tokens, verdict.score)
    assert window.answer is not None
    device = commit.device
    bound = to_device(policy.bound(window.end - window.start), device)
    may = rearrange((window.step < bound) & ~to_device(window.commit, device), "b -> b 1") & window.answer
    other = tokens != window.take(canvas.tokens)
    commit = commit | (verdict.accept & may & ~window.pending & other)
    none = torch.zeros_like(commit)
    revoke = none if verdict.revoke is None else verdict.revoke & may & (commit | ~window.pending)
    hold = none[:, 0] if verdict.hold is None else verdict.hold & may.any(1)
    return StepChange(commit & ~revoke, tokens, verdict.score, revoke, hold)


def write_canvas(
    canvas: Canvas, window: Window, change: StepChange, there: Bool[Tensor, "b t"], mask_id: int | None
) -> Canvas:
    """Write tokens where they are committed, and make pending again what is revoked.

    Args:
        canvas: The canvas before the step.
        window: The window.
        change: What the step does.
        there: Columns of `change.commit`.
        mask_id: Written where something is revoked; None where there is no mask token.
    """
    tokens = torch.where(there, window.scatter_to_columns(change.tokens, there.shape[1]), canvas.tokens)
    pending = torch.where(there, False, canvas.pending)
    if change.revoke is not None:
        tokens = tokens if mask_id is None else window.put(tokens, mask_id, change.revoke)
        pending = window.put(pending, True, change.revoke)
    return canvas._replace(tokens=tokens, pending=pending, held=change.hold)
