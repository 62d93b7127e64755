"""Every law, over all schedulers, caches and geometries: `pytest experiments/example_plugin`."""

from dllm.testing import Laws


class TestRelative(Laws):
    parts = ("relative", "relative(share=0.5)")
