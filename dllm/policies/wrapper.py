"""What the policies share that judge as another policy does, and change something about it."""

from __future__ import annotations

from torch import Tensor

from dllm.types import Policy, Signal


class PolicyWrapper:
    """Base of the policies that wrap one: what the inner policy says of itself is true of the whole.

    policy  the rule; it may follow a pace, edit, or be a wrapper itself
    """

    policy: Policy

    @property
    def needs(self) -> Signal:
        return self.policy.needs

    @property
    def paced(self) -> bool:
        return getattr(self.policy, "paced", False)

    @property
    def edits(self) -> bool:
        return getattr(self.policy, "edits", False)

    def bound(self, columns: Tensor, /) -> Tensor:
        """For how many steps of a range of so many columns (b,) the inner policy edits; asked only if it does."""
        found: Tensor = self.policy.bound(columns)  # type: ignore[attr-defined]
        return found
