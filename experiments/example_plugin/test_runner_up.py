"""Every law for the policies with a signal, and with tokens, of their own."""

from dllm_runner_up import NoEcho

from dllm.testing import Laws


class TestSignalThreshold(Laws):
    parts = ("signal-threshold", "signal-threshold(least=2.5, signal=slot-entropy)")


class TestNoEcho(Laws):
    parts = ("no-echo", NoEcho(tau=0.2))
