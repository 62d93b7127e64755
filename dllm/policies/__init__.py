"""Policies: which positions to commit. One idea a file; scores are kept apart from rules."""

from dllm.policies.certainty_prior import CertaintyPrior
from dllm.policies.certified import Certified
from dllm.policies.decaying_threshold import DecayingThreshold
from dllm.policies.dilated import Dilated
from dllm.policies.early_commit import Cosine, Curve, EarlyCommit, Exponential, Linear, Stairs
from dllm.policies.entropy_bound import EntropyBound
from dllm.policies.entropy_threshold import EntropyThreshold
from dllm.policies.error_budget import ErrorBudget, SequenceBudget
from dllm.policies.factor import Factor, FactorAsPublished
from dllm.policies.joint_threshold import JointThreshold
from dllm.policies.klass import KLASS
from dllm.policies.local_leap import LocalLeap
from dllm.policies.pace import EqualSplit, FullBlock, Pace, TimeSchedule
from dllm.policies.position_calibrated import PositionCalibrated
from dllm.policies.prefix_rule import PrefixRule
from dllm.policies.remdm import ByConfidence, Capped, RemaskLoop, ReMDM, Rescaled
from dllm.policies.run_hierarchy import RunHierarchy
from dllm.policies.saber import Saber
from dllm.policies.scores import Confidence, LeftToRight, Margin, NegativeEntropy, Peak, Random, Score
from dllm.policies.threshold import Threshold
from dllm.policies.top_k import BudgetedThreshold, TopK
from dllm.policies.wino import WINO

__all__ = [
    "KLASS",
    "WINO",
    "BudgetedThreshold",
    "ByConfidence",
    "Capped",
    "CertaintyPrior",
    "Certified",
    "Confidence",
    "Cosine",
    "Curve",
    "DecayingThreshold",
    "Dilated",
    "EarlyCommit",
    "EntropyBound",
    "EntropyThreshold",
    "EqualSplit",
    "ErrorBudget",
    "Exponential",
    "Factor",
    "FactorAsPublished",
    "FullBlock",
    "JointThreshold",
    "LeftToRight",
    "Linear",
    "LocalLeap",
    "Margin",
    "NegativeEntropy",
    "Pace",
    "Peak",
    "PositionCalibrated",
    "PrefixRule",
    "Random",
    "ReMDM",
    "RemaskLoop",
    "Rescaled",
    "RunHierarchy",
    "Saber",
    "Score",
    "SequenceBudget",
    "Stairs",
    "Threshold",
    "TimeSchedule",
    "TopK",
]
