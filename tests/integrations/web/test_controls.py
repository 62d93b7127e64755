"""The controls follow the tables of parts, and settings that cannot work are explained in plain words."""

from __future__ import annotations

import pytest

from dllm.compose.expressions import read_part
from dllm.errors import DllmError
from dllm.integrations.web import controls
from dllm.integrations.web.controls import AS_RECIPE, AnswerSettings, strip_option_dashes
from dllm.types import Policy


@pytest.mark.parametrize("kind", controls.TABLES)
def test_every_part_can_be_chosen(kind):
    assert controls.list_parts(kind) == [AS_RECIPE, *controls.TABLES[kind]]
    assert controls.list_part_fields(kind, AS_RECIPE) == []
    assert all(
        len(controls.list_part_fields(kind, name)) <= controls.count_most_part_fields(kind)
        for name in controls.list_parts(kind)
    )


@pytest.mark.parametrize("name", controls.list_parts("policy")[1:])
def test_the_defaults_that_knobs_show_are_the_defaults(name):
    values = [knob.default for knob in controls.list_part_fields("policy", name)]
    if name != "top-k":
        assert read_part(controls.build_part_expression("policy", name, values), Policy) == read_part(name, Policy)


def test_an_expression_has_what_was_filled_in():
    assert controls.build_part_expression("policy", "klass", ("0.6", "", " 3 ")) == "klass(tau=0.6, history=3)"
    assert controls.build_part_expression("policy", "klass", ("", " ")) == "klass"
    assert controls.build_part_expression("policy", AS_RECIPE, ("0.6",)) is None


def test_a_part_of_a_package_has_knobs(site):
    site.install(
        "dllm-part",
        {"dllm.policies": {"mine": "dllm_mine:Mine"}},
        dllm_mine="from dataclasses import dataclass\nfrom dllm.policies import Threshold\n\n\n"
        "@dataclass(frozen=True)\nclass Mine(Threshold):\n    '''Mine.'''\n    extra: int = 7\n",
    )
    assert "mine" in controls.list_parts("policy")
    assert controls.list_part_fields("policy", "mine")[-1][:2] == ("extra", "7")


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        (AnswerSettings("embedded", parts={"policy": ("klass", ("oops",))}), "klass(tau=oops): must be a number"),
        (AnswerSettings("embedded", parts={"policy": ("threshold", ("-1",))}), "tau must be 0 or more"),
        (AnswerSettings("embedded", block_size="abc"), "block size abc: must be a whole number"),
        (AnswerSettings("embedded", block_size="0"), "size must be at least 1"),
        (AnswerSettings("embedded", temperature="-1"), "temperature"),
        (AnswerSettings("embedded", temperature="nan"), "temperature nan: must be a number"),
        (AnswerSettings("embedded", top_p="2"), "top_p"),
        (AnswerSettings("embedded", max_new_tokens=""), "length"),
        (AnswerSettings("embedded", max_new_tokens="0"), "at least 1"),
        (AnswerSettings("embedded", max_new_tokens="100000"), "at most 256"),
        (AnswerSettings("embedded", seed="x"), "seed x: must be a whole number"),
        (AnswerSettings("embedded", parts={"policy": ("top-k", ())}), "give either k"),
        (AnswerSettings("embedded", top="99"), "from 0 to 20"),
        (AnswerSettings("/etc/passwd"), "unknown model '/etc/passwd'"),
        (AnswerSettings("embedded", parts={"policy": ("nothing", ())}), "unknown policy"),
    ],
)
def test_settings_that_cannot_work_are_explained(library, choice, message):
    with pytest.raises(DllmError) as error:
        library.start_answer(choice, [{"role": "user", "content": "x"}])
    assert message in strip_option_dashes(error.value)
    assert "--" not in strip_option_dashes(error.value)


def test_a_prompt_that_does_not_fit_fails_its_run_and_no_other(library):
    from tests.integrations.web.conftest import finished

    run = finished(
        library.start_answer(AnswerSettings("embedded"), [{"role": "user", "content": "many words " * 2000}])
    )
    assert "context" in run.error and run.result is None
    assert finished(
        library.start_answer(AnswerSettings("embedded"), [{"role": "user", "content": "Compute 1 + 1."}])
    ).result
