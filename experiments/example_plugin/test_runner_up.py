"""Every law for the policies with a signal, and with tokens, of their own."""

from dllm_runner_up import NoEcho

from dllm.testing import Laws


class TestAtLeast(Laws):
    parts = ("at-least", "at-least(least=1.0)")


class TestNoEcho(Laws):
    parts = ("no-echo", NoEcho(tau=0.2))
