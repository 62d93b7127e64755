"""The common base of policies that judge as another policy does, and change something about it."""

from __future__ import annotations

from jaxtyping import Int
from torch import Tensor

from dllm.types import Policy, Probe, Signal


class PolicyWrapper(Policy):
    """Base of the policies that wrap one: the declarations of the inner policy hold for the whole.

    Attributes:
        policy: The rule; it may follow a pace, edit, or be a wrapper itself.
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

    def bound(self, columns: Int[Tensor, " b"], /) -> Int[Tensor, " b"]:
        return self.policy.bound(columns)
