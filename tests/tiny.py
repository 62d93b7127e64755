"""Tiny random models of every geometry: those of `dllm.testing`, under a shorter name."""

from dllm.testing.tiny import GEOMETRIES, MASK, STOP, VOCABULARY, tiny_model, tiny_network

__all__ = ["GEOMETRIES", "MASK", "STOP", "VOCABULARY", "tiny_model", "tiny_network"]
