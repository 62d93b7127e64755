"""The common parts of policies that take back what they decided."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor

from dllm.policies.prefix_rule import rank_slots
from dllm.types import Policy, Window


class RevisingPolicy(Policy):
    """Base of the policies that revoke or replace decided slots of their window.

    They hold a row for as long as they are not done with its range, so that an end token counts only when the range is
    finished: until then it may be taken back.
    """

    edits: ClassVar[bool] = True

    def bound(self, columns: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        """Bound the steps of a range by its columns.

        That suits a policy under which every step leaves at least one slot more decided than the step before.
        """
        return columns


def decided_slots(window: Window) -> Bool[Tensor, "b k"]:
    """Find the slots that hold an answer."""
    assert window.answer is not None
    return window.answer & ~window.pending


def lowest_slots(
    values: Float[Tensor, "b k"], among: Bool[Tensor, "b k"], count: Int[Tensor, " b"]
) -> Bool[Tensor, "b k"]:
    """Find the `count` slots of lowest value among some; ties go to the leftmost."""
    return (rank_slots(-values, among).rank < count.unsqueeze(1)) & among


def rows_still_pending(window: Window, accept: Bool[Tensor, "b k"], revoke: Bool[Tensor, "b k"]) -> Bool[Tensor, " b"]:
    """Find the rows in which a slot is pending after this step, in which the loop commits at least one."""
    open_slots = window.pending.sum(1)
    return open_slots - accept.sum(1).clamp(min=1) + revoke.sum(1) > 0
