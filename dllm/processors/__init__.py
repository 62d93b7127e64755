"""Processors, which change logits before candidates are chosen: credit for earlier predictions, constraints on text."""

from dllm.processors.constraint import Constraint
from dllm.processors.credit import CreditDecoding
from dllm.processors.languages import JsonSchema, Regex

__all__ = ["Constraint", "CreditDecoding", "JsonSchema", "Regex"]
