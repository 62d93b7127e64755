"""Signals and probes: what a policy may ask for beside the candidate and its probability.

A signal of another package is used like these: name it in a policy's `needs`, read it as `guess[signal]`. Registered in
the entry-point group `dllm.signals`, it can be written in expressions.
"""

from dllm.signals.decided import Current, Shadow
from dllm.signals.marginal import Entropy, Probabilities, SecondToken
from dllm.signals.noise import Noise, uniform_noise
from dllm.signals.probes import Attention, Hidden

__all__ = [
    "Attention",
    "Current",
    "Entropy",
    "Hidden",
    "Noise",
    "Probabilities",
    "SecondToken",
    "Shadow",
    "uniform_noise",
]
