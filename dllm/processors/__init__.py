"""What changes logits before candidates are chosen: credit for what was predicted before, constraints on the text."""

from dllm.processors.constraint import Constraint
from dllm.processors.credit import CreditDecoding
from dllm.processors.languages import JsonSchema, Regex

__all__ = ["Constraint", "CreditDecoding", "JsonSchema", "Regex"]
