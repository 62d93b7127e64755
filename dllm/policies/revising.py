"""What the policies share that take back what they decided."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from dllm.policies.prefix_rule import rank_slots
from dllm.types import Policy, Window


class RevisingPolicy(Policy):
    """Base of the policies that revoke or replace decided slots of their window.

    They hold a row for as long as they are not done with its range, so that an end token counts only when the range is
    finished: until then it may be taken back.
    """

    edits: ClassVar[bool] = True

    def bound(self, columns: Tensor, /) -> Tensor:
        """Steps (b,) that a range of so many columns (b,) may take: with every step at least one slot more is decided
        than before, so no more than it has columns."""
        return columns


def decided_slots(window: Window) -> Tensor:
    """Slots (b, k) that hold an answer."""
    assert window.answer is not None
    return window.answer & ~window.pending


def lowest_slots(values: Tensor, among: Tensor, count: Tensor) -> Tensor:
    """The `count` (b,) slots of lowest value among some (b, k); ties go to the leftmost."""
    return (rank_slots(-values, among).rank < count.unsqueeze(1)) & among


def rows_still_pending(window: Window, accept: Tensor, revoke: Tensor) -> Tensor:
    """Rows (b,) in which a slot is pending after this step, of which the loop decides at least one."""
    open_slots = window.pending.sum(1)
    return open_slots - accept.sum(1).clamp(min=1) + revoke.sum(1) > 0
