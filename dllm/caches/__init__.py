"""What to recompute, and the key/value storage that makes it unnecessary to recompute more."""

from dllm.caches.delayed import DelayedCache
from dllm.caches.dual import DualCache
from dllm.caches.none import NoCache
from dllm.caches.prefix import PrefixCache
from dllm.caches.sliding import SlidingCache
from dllm.caches.speculative import Speculative
from dllm.caches.vicinity import VicinityCache

__all__ = ["DelayedCache", "DualCache", "NoCache", "PrefixCache", "SlidingCache", "Speculative", "VicinityCache"]
