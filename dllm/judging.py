"""From a policy's verdict to what is really done: the guarantees that no policy can break."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from dllm.sampling import Proposer
from dllm.transfer import to_device
from dllm.types import Canvas, Guess, Policy, Signal, State, Verdict, Window, among


class Change(NamedTuple):
    """What a step does.

    commit  (b, k) bool     the candidate is written here: pending slots, and decided ones that are replaced
    score   (b, k) float32  the policy's order of preference
    revoke  (b, k) bool     decided slots made pending again; None if the policy does not edit
    hold    (b,) bool       rows that stay in their range; None likewise
    """

    commit: Tensor
    score: Tensor
    revoke: Tensor | None = None
    hold: Tensor | None = None


def editable(window: Window, canvas: Canvas, policy: Policy) -> Window:
    """The window with logits for decided slots too, for a policy that judges these."""
    k = window.columns.shape[1]
    columns = rearrange(window.start, "b -> b 1") + torch.arange(k)
    given = canvas.rows.given
    answer = (columns < rearrange(window.end, "b -> b 1")) & ~given.gather(1, columns.clamp(max=given.shape[1] - 1))
    device, slots = window.columns.device, answer.flatten().nonzero().flatten()
    return window._replace(
        slots=to_device(slots, device),
        host_slots=slots,
        answer=to_device(answer, device),
        shadow=Signal.SHADOW in policy.needs,
    )


def judge(
    policy: Policy, proposer: Proposer, canvas: Canvas, guess: Guess, window: Window, mood: State, habits: Any
) -> tuple[Change, State]:
    """What the policy decides, within what any policy may do."""
    window = narrowed(window, canvas)
    verdict, mood = policy.step(guess, window, mood)
    commit = enforce_progress(verdict, window)
    commit = proposer.settle(canvas, window, guess, commit, verdict.score, habits)
    if not getattr(policy, "edits", False):
        return Change(commit, verdict.score), mood
    return edit(policy, verdict, canvas, guess, window, commit), mood


def narrowed(window: Window, canvas: Canvas) -> Window:
    """The window whose answer leaves out what is undecided and yet not this step's to commit (`Scheduler.refine`)."""
    if window.answer is None:
        return window
    return window._replace(answer=window.answer & (window.pending | ~window.take(canvas.pending)))


def enforce_progress(verdict: Verdict, window: Window) -> Tensor:
    """What to commit (b, k) of the pending slots: the verdict, and the best slot of every row, or of every group of a
    row, that would commit nothing."""
    accept = verdict.accept & window.pending
    score = among(verdict.score, window.pending)
    works = None if verdict.rest is None else ~verdict.rest | to_device(window.forced, verdict.rest.device)
    if window.groups is not None:
        best_ones = best_of_groups(score, accept, window)
        return accept | (best_ones if works is None else best_ones & rearrange(works, "b -> b 1"))
    best = torch.where(accept, torch.inf, score).argmax(1, keepdim=True)  # one that is accepted, if any is
    may = window.pending if works is None else accept | (window.pending & rearrange(works, "b -> b 1"))
    return accept.scatter_(1, best, may.gather(1, best))


def best_of_groups(score: Tensor, accept: Tensor, window: Window) -> Tensor:
    """The best pending slot (b, k) of each group in which nothing is accepted; ties go to the leftmost."""
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


def edit(policy: Any, verdict: Verdict, canvas: Canvas, guess: Guess, window: Window, commit: Tensor) -> Change:
    """The change of a policy that edits, for as long as its bound on the range lasts."""
    assert window.answer is not None
    device = commit.device
    bound = to_device(policy.bound(window.end - window.start), device)
    may = rearrange((window.step < bound) & ~to_device(window.commit, device), "b -> b 1") & window.answer
    other = guess.tokens != window.take(canvas.tokens)
    commit = commit | (verdict.accept & may & ~window.pending & other)
    none = torch.zeros_like(commit)
    revoke = none if verdict.revoke is None else verdict.revoke & may & (commit | ~window.pending)
    hold = none[:, 0] if verdict.hold is None else verdict.hold & may.any(1)
    return Change(commit & ~revoke, verdict.score, revoke, hold)
