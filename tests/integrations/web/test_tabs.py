"""The tabs as their buttons are pressed, without a browser."""

from __future__ import annotations

from typing import Any

import pytest

gradio = pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dllm[web]'")

from dllm.integrations.web.chat_html import VisitorSession  # noqa: E402
from dllm.integrations.web.conversation import ConversationTab  # noqa: E402
from dllm.integrations.web.page import build_appearance, build_page  # noqa: E402
from dllm.integrations.web.race import PACES, RaceTab  # noqa: E402
from dllm.integrations.web.replay import SOURCES, ReplayTab  # noqa: E402
from dllm.integrations.web.runs import RunStatus  # noqa: E402
from tests.integrations.web.conftest import CAUSAL, finished  # noqa: E402


@pytest.fixture(scope="module")
def tabs(library) -> dict[str, Any]:
    """Return the three tabs by name."""
    with gradio.Blocks(analytics_enabled=False):
        session = gradio.State(VisitorSession())
        with gradio.Tab("replay") as tab:
            replay = ReplayTab(session, tab)
        return {"talk": ConversationTab(library, session), "replay": replay, "race": RaceTab(library, session)}


def values(panel) -> list[Any]:
    """Return the values that the controls of a panel have at first."""
    return [component.value for component in panel.inputs]


def test_a_conversation_goes_on(tabs):
    talk, session = tabs["talk"], VisitorSession()
    for text in ("Compute 8 + 6.", "And 2 + 2?"):
        *_, last = talk.answer(text, session, "confidence", True, 0.0, *values(talk.panel))
        assert session.run.state is RunStatus.DONE, session.run.error
        assert "dllm-cell" in last[1] and ">NFE<" in last[3]
    assert [message["role"] for message in session.messages] == ["user", "assistant", "user"]
    talk.start_over(session)
    assert session.messages == [] and session.run is None


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_prompt_is_refused_and_nothing_runs(tabs, text):
    session = VisitorSession()
    (shown,) = tabs["talk"].answer(text, session, "confidence", True, 0.0, *values(tabs["talk"].panel))
    assert "the prompt is empty" in shown[2] and session.run is None


def test_a_visitor_who_leaves_ends_the_answer(tabs):
    talk, session = tabs["talk"], VisitorSession()
    stream = talk.answer("Compute 8 + 6.", session, "step", True, 0.3, *values(talk.panel))
    next(stream), next(stream)
    stream.close()
    assert session.run.stop_requested
    finished(session.run)


def test_a_replay_shows_any_step(tabs):
    talk, replay, session = tabs["talk"], tabs["replay"], VisitorSession()
    assert "nothing is recorded" in replay.show_last_step(session, SOURCES[0], "step")[1]
    *_, _ = talk.answer("Compute 8 + 6.", session, "step", True, 0.0, *values(talk.panel))
    count = len(session.run.frames)
    slider, line, *_ = replay.show_last_step(session, SOURCES[0], "step")
    assert slider["maximum"] == max(2, count) and f"step {count} of {count}" in line
    for step in (-3, 0, 1, count, count + 9, None):
        line, drawn, _, table = replay.show_step(session, SOURCES[0], step, "confidence")
        assert "step" in line and "dllm-cell" in drawn and "<table" in table
    played = [at for at, *_ in replay.play(session, SOURCES[0], count, "step", 0.05)]
    assert played == list(range(1, count + 1))


def test_a_race_of_a_causal_and_a_diffusion_model(tabs, library):
    race, session = tabs["race"], VisitorSession()
    settings = [value for panel in race.panels for value in values(panel)]
    assert CAUSAL in settings, "a causal model is the second lane where there is one"
    *_, last = race.race("Compute 8 + 6.", "24", "0", PACES[1], "step", session, *settings)
    assert "times as fast" in last[0] and "models differ" in last[0]
    assert [run.state for run in session.lanes] == [RunStatus.DONE, RunStatus.DONE]
    (shown,) = race.race("Compute 8 + 6.", "no", "0", PACES[1], "step", session, *settings)
    assert "lane A: length no: must be a whole number" in shown[0]


def test_the_page_asks_for_nothing_from_outside(library):
    page = build_page(library)
    assert not page.analytics_enabled
    assert "http" not in build_appearance()["css"] and "@import" not in build_appearance()["css"]
