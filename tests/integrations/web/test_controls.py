"""What can be set follows the tables of parts; what cannot work is said in plain words."""

from __future__ import annotations

import pytest

from dllm.errors import DllmError
from dllm.expressions import read
from dllm.integrations.web import controls
from dllm.integrations.web.controls import AS_RECIPE, Choice, worded
from dllm.types import Policy


@pytest.mark.parametrize("kind", controls.TABLES)
def test_every_part_can_be_chosen(kind):
    assert controls.parts(kind) == [AS_RECIPE, *controls.TABLES[kind]]
    assert controls.knobs(kind, AS_RECIPE) == []
    assert all(len(controls.knobs(kind, name)) <= controls.most_knobs(kind) for name in controls.parts(kind))


@pytest.mark.parametrize("name", controls.parts("policy")[1:])
def test_the_defaults_that_knobs_show_are_the_defaults(name):
    values = [knob.default for knob in controls.knobs("policy", name)]
    if name != "top-k":
        assert read(controls.expression("policy", name, values), Policy) == read(name, Policy)


def test_an_expression_has_what_was_filled_in():
    assert controls.expression("policy", "klass", ("0.6", "", " 3 ")) == "klass(tau=0.6, history=3)"
    assert controls.expression("policy", "klass", ("", " ")) == "klass"
    assert controls.expression("policy", AS_RECIPE, ("0.6",)) is None


def test_a_part_of_a_package_has_knobs(site):
    site.install(
        "dllm-part",
        {"dllm.policies": {"mine": "dllm_mine:Mine"}},
        dllm_mine="from dataclasses import dataclass\nfrom dllm.policies import Threshold\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Threshold):\n    '''Mine.'''\n    extra: int = 7\n",
    )
    assert "mine" in controls.parts("policy")
    assert controls.knobs("policy", "mine")[-1][:2] == ("extra", "7")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        (Choice("embedded", parts={"policy": ("klass", ("oops",))}), "klass(tau=oops): must be a number"),
        (Choice("embedded", parts={"policy": ("threshold", ("-1",))}), "tau must be 0 or more"),
        (Choice("embedded", block_size="abc"), "block size abc: must be a whole number"),
        (Choice("embedded", block_size="0"), "size must be at least 1"),
        (Choice("embedded", temperature="-1"), "temperature"),
        (Choice("embedded", temperature="nan"), "temperature nan: must be a number"),
        (Choice("embedded", top_p="2"), "top_p"),
        (Choice("embedded", max_new_tokens=""), "length"),
        (Choice("embedded", max_new_tokens="0"), "at least 1"),
        (Choice("embedded", max_new_tokens="100000"), "at most 256"),
        (Choice("embedded", seed="x"), "seed x: must be a whole number"),
        (Choice("embedded", parts={"policy": ("top-k", ())}), "give either k"),
        (Choice("embedded", top="99"), "from 0 to 20"),
        (Choice("/etc/passwd"), "unknown model '/etc/passwd'"),
        (Choice("embedded", parts={"policy": ("nothing", ())}), "unknown policy"),
    ],
)
def test_what_cannot_work_is_said(library, choice, said):
    with pytest.raises(DllmError) as error:
        library.begin(choice, [{"role": "user", "content": "x"}])
    assert said in worded(error.value)
    assert "--" not in worded(error.value)


def test_a_prompt_that_does_not_fit_fails_its_run_and_no_other(library):
    from tests.integrations.web.conftest import finished

    run = finished(library.begin(Choice("embedded"), [{"role": "user", "content": "many words " * 2000}]))
    assert "context" in run.error and run.result is None
    assert finished(library.begin(Choice("embedded"), [{"role": "user", "content": "Compute 1 + 1."}])).result
