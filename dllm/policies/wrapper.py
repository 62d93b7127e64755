"""What the policies share that judge as another policy does, and change something about it."""

from __future__ import annotations

from torch import Tensor

from dllm.types import Policy, Probe, Signal


class PolicyWrapper(Policy):
    """Base of the policies that wrap one: what the inner policy says of itself is true of the whole.

    policy  the rule; it may follow a pace, edit, or be a wrapper itself
    """

    policy: Policy

    @property
    def needs(self) -> tuple[Signal | Probe, ...]:
        return self.policy.needs

    @property
    def paced(self) -> bool:
        return self.policy.paced

    @property
    def edits(self) -> bool:
        return self.policy.edits

    @property
    def chooses_tokens(self) -> bool:
        return self.policy.chooses_tokens

    @property
    def rests(self) -> bool:
        return self.policy.rests

    def bound(self, columns: Tensor, /) -> Tensor:
        """For how many steps of a range of so many columns (b,) the inner policy edits; asked only if it does."""
        return self.policy.bound(columns)
