"""Every law of models for a geometry that dllm does not know."""

from dllm_causal_context import make_tiny_model

from dllm.testing import ModelLaws


class TestCausalContext(ModelLaws):
    model = make_tiny_model()


class TestCausalContextShift(ModelLaws):
    model = make_tiny_model(shift=1)
