"""Every law, over all schedulers, caches and geometries.

Install the package first: `pip install -e experiments/example_plugin && pytest experiments/example_plugin`.
"""

from dllm.testing import Laws


class TestRelative(Laws):
    parts = ("relative", "relative(share=0.5)")
