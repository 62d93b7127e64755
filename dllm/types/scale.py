"""How logits become probabilities: one normaliser for a slot, found once and used by everything that reads the slot."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

LOG2_E = 1 / math.log(2)


class LogitScale(NamedTuple):
    """The normaliser of n slots: probability = 2 ** (LOG2_E * logit + shift) / total, or e ** (logit + shift) / total.

    Powers of two cost less than powers of e. They are used only where a device rounds a product and a sum once; where
    it rounds twice, large logits would lose too much. In float32 the result errs by a few units in the last place,
    however large the logits are (up to 1e8). With a logarithm in between, as `log_softmax` has it, the error would grow
    with them.

    Attributes:
        shift: Added to the (scaled) logits before the power is taken.
        total: Sum of the powers over the vocabulary.
        fused: Whether powers of two are taken.
    """

    shift: Float[Tensor, "n 1"]
    total: Float[Tensor, "n 1"]
    fused: bool

    def probability(self, logits: Float[Tensor, "n m"]) -> Float[Tensor, "n m"]:
        """Turn logits of each slot, all m = v of the vocabulary or some m of them, into probabilities."""
        return exponentiate(logits, self.shift, self.fused).div_(self.total)


def exponentiate(
    logits: Float[Tensor, "n v"], shift: Float[Tensor, "n 1"], fused: bool, out: Tensor | None = None
) -> Float[Tensor, "n v"]:
    """Compute 2 ** (LOG2_E * logits + shift), rounded once before the power is taken, or e ** (logits + shift)."""
    if fused:
        return torch.add(shift, logits, alpha=LOG2_E, out=out).exp2_()
    return torch.add(shift, logits, out=out).exp_()
