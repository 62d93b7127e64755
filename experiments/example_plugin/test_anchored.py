"""Every law for the policy that looks inside the network."""

from dllm.testing import Laws


class TestAnchored(Laws):
    parts = ("anchored", "anchored(share=0.5, layers=None)")
