"""Guarantees that marginals alone give about a joint: certificates, bounds, and small joints written out as tables.

`n` positions are committed together. `P` is their true joint given the canvas, `p_j` its marginals (all that one
forward shows), `Q = prod_j p_j` their product, `x*_j = argmax p_j` the greedy candidates. For position j:
`c_j = p_j(x*_j)` is its confidence, `e_j = 1 - c_j` its deficit, `p2_j` the largest probability of any other token.
Everything here needs a coherent joint; the conditionals of a trained network need not come from one.

Axes: `...` leading batch, `k` positions, `v` vocabulary, `n` the position axes of a joint. A joint is a table of shape
(..., v, v, ..., v), with one axis for each position; functions that also take an argument `n` read the last n axes as
positions (all of them if it is None). Constructors give float64.

References:
    [F] Wu et al. 2025, Fast-dLLM (arXiv:2505.22618), Theorem 1 and its appendix.
    [E] Ben-Hamu et al. 2025, EB-Sampler (arXiv:2505.24857), eq. 8.
    [P] Kasa et al. 2026, Fast-dLLM++ (arXiv:2606.02955).
    Results without a mark are ours.
"""

from dllm.theory.bounds import (
    entropy_bound,
    lp_bound,
    paper_kl_bound,
    paper_tv_bound,
    tv_bound,
)
from dllm.theory.certificates import (
    ULPS,
    certified_prefix,
    is_certified,
    theorem1_holds,
)
from dllm.theory.examples import (
    POKER_WORDS,
    correlated_joint,
    poker_hand_joint,
    star_joint,
    tight_counterexample,
    xor_joint,
)
from dllm.theory.tables import (
    argmax_joint,
    condition_joint,
    entropy,
    kl_divergence,
    marginals,
    product_joint,
    total_correlation,
    total_variation,
)

__all__ = [
    "POKER_WORDS",
    "ULPS",
    "argmax_joint",
    "certified_prefix",
    "condition_joint",
    "correlated_joint",
    "entropy",
    "entropy_bound",
    "is_certified",
    "kl_divergence",
    "lp_bound",
    "marginals",
    "paper_kl_bound",
    "paper_tv_bound",
    "poker_hand_joint",
    "product_joint",
    "star_joint",
    "theorem1_holds",
    "tight_counterexample",
    "total_correlation",
    "total_variation",
    "tv_bound",
    "xor_joint",
]
