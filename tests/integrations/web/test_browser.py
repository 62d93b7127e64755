"""The page in a real browser: what a visitor does on it, and that nothing is fetched from elsewhere.

Needs gradio, playwright and /usr/bin/chromium (or $CHROMIUM): pip install 'dllm[web]' playwright; apt install chromium.
If $SCREENSHOTS is a folder, pictures of every tab are put there.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio", reason="the page needs gradio: pip install 'dllm[web]'")
playwright = pytest.importorskip("playwright.sync_api", reason="browser tests need playwright: pip install playwright")

from dllm.integrations.web.serving import format_address, make_web_server, open_listening_socket  # noqa: E402

CHROMIUM = Path(os.environ.get("CHROMIUM", "/usr/bin/chromium"))
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
]  # fmt: skip
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
DESKTOP: dict[str, Any] = {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"}
pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason=f"no {CHROMIUM}: apt install chromium, or set $CHROMIUM")


@pytest.fixture(scope="module")
def home(library) -> Iterator[str]:
    """Serve the page and return its address."""
    bound = open_listening_socket("127.0.0.1", 0)
    running = make_web_server(library, bound)
    thread = threading.Thread(target=running.run, kwargs={"sockets": [bound]}, daemon=True)
    thread.start()
    yield format_address(bound)
    running.should_exit = True
    thread.join(60)
    bound.close()
    assert not thread.is_alive(), "the server does not end"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=str(CHROMIUM), args=FLAGS)
        yield opened
        opened.close()


class Visit:
    """One visitor's window, with the addresses that it fetched and the errors in it."""

    def __init__(self, browser: Any, home: str, **look: Any) -> None:
        self.context = browser.new_context(**look)
        self.page = self.context.new_page()
        self.page.set_default_timeout(20_000)
        self.fetched: list[str] = []
        self.errors: list[str] = []
        self.page.on("request", lambda request: self.fetched.append(request.url))
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("dialog", lambda dialog: self.errors.append(dialog.message))
        self.page.on("console", lambda line: self.errors.append(line.text) if line.type == "error" else None)
        self.page.goto(home)
        self.page.wait_for_selector("#talk-send")

    def ask(self, text: str) -> None:
        """Type a prompt and send it."""
        self.field("#talk-prompt").fill(text)
        self.page.click("#talk-send")

    def field(self, where: str) -> Any:
        """Return the input of a control."""
        return self.page.locator(f"{where} textarea, {where} input").first

    def tab(self, name: str) -> None:
        """Open a tab."""
        self.page.get_by_role("tab", name=name).click()

    def picture(self, name: str) -> None:
        """Save a screenshot if they are wanted."""
        if folder := os.environ.get("SCREENSHOTS"):
            self.page.screenshot(path=str(Path(folder) / f"{name}.png"), full_page=True)

    def text(self, where: str) -> str:
        """Return the visible text of an element."""
        return self.page.inner_text(where)

    def figure(self, where: str, name: str) -> str:
        """Return a figure by its name."""
        return dict(re.findall(r"^(.+)\n(.+)$", self.text(where), re.MULTILINE))[name]

    def wait_for_answer(self) -> None:
        """Wait until the answer is complete."""
        self.page.wait_for_selector("#talk-canvas .dllm-special")
        self.page.wait_for_selector("#talk-note .dllm-note", state="detached")

    def excess_width(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@pytest.fixture
def visit(browser, home) -> Iterator[Any]:
    made: list[Visit] = []

    def open_window(**look: Any) -> Visit:
        made.append(Visit(browser, home, **(look or DESKTOP)))
        return made[-1]

    yield open_window
    for each in made:
        each.context.close()
        assert each.errors == []
        assert each.fetched and all(url.startswith((home, "data:", "blob:")) for url in each.fetched)


@pytest.mark.parametrize(("name", "look"), [("desktop-light", DESKTOP), ("phone-dark", PHONE)])
def test_a_visit(visit, name, look):
    """Type a prompt, watch the denoising, drag the replay, run a race."""
    one = visit(**look)
    one.field("#talk-pause").fill("0.2")
    one.ask("Tom has 3 apples and buys 4 more. How many apples has Tom?")
    one.page.wait_for_selector("#talk-canvas .dllm-pending")
    seen: list[int] = []
    while not seen or seen[-1]:
        seen.append(one.page.locator("#talk-canvas .dllm-pending").count())
    one.wait_for_answer()
    assert len(set(seen)) > 2, "denoising was not seen to progress"
    assert one.page.locator("#talk-canvas .dllm-pending").count() == 0
    assert int(one.figure("#talk-figures", "NFE")) > 1 and float(one.figure("#talk-figures", "TPF")) > 1
    one.picture(f"{name}-conversation")
    one.tab("Replay")
    one.page.wait_for_selector("#replay-table table")
    slider = one.page.locator("#replay-step input[type=range]")
    slider.focus()
    slider.press("Home")
    one.page.wait_for_selector("#replay-line :text('step 1 of')")
    first = one.page.locator("#replay-canvas .dllm-pending").count()
    slider.press("ArrowRight")
    one.page.wait_for_selector("#replay-line :text('step 2 of')")
    assert one.page.locator("#replay-canvas .dllm-pending").count() < first
    assert one.page.locator("#replay-table .dllm-chosen").count() > 0
    one.picture(f"{name}-replay")
    assert one.excess_width() <= 0
    one.tab("Race")
    if look is PHONE:
        one.page.click("#race-pace input")
        one.page.get_by_role("option", name="as measured").click()
    one.page.click("#race-go")
    if look is DESKTOP:
        one.page.wait_for_selector("#race-clock :text('times slower')")
    one.page.wait_for_selector("#race-clock .dllm-verdict")
    assert float(one.figure("#race-figures-B", "TPF")) == 1.0 < float(one.figure("#race-figures-A", "TPF"))
    one.picture(f"{name}-race")
    assert one.excess_width() <= 0


def test_parameters_errors_and_the_keyboard(visit):
    """Choose a policy, give one of its knobs a wrong value and then a right one, and send with Enter."""
    one = visit()
    one.page.click("#talk-policy input")
    one.page.get_by_role("option", name="klass", exact=True).click()
    one.field("#talk-policy-1").fill("oops")
    one.page.wait_for_selector("#talk-plan .dllm-error")
    one.ask("Compute 8 + 6.")
    one.page.wait_for_selector("#talk-note [role=alert]")
    assert "kl=oops" in one.text("#talk-note") and "Traceback" not in one.text("body")
    one.picture("error")
    one.field("#talk-policy-1").fill("0.02")
    one.page.wait_for_selector("#talk-plan :text('KLASS(tau=0.9, kl=0.02')")
    one.field("#talk-prompt").focus()
    one.page.keyboard.press("Enter")
    one.wait_for_answer()
    one.page.get_by_label("step", exact=True).first.check()
    one.page.wait_for_selector("#talk-legend :text('first forward')")
    one.ask("And <b>3</b> * 4 ${1+1} {{value}}?")
    one.page.wait_for_selector("#talk-history :text('<b>3</b> * 4 ${1+1} {{value}}?')")
    one.wait_for_answer()
    assert one.page.locator("#talk-history .dllm-turn").count() == 3
    one.page.click("#talk-clear")
    one.page.wait_for_selector("#talk-history .dllm-turn", state="detached")


def test_visitors_do_not_mix_and_stop_stops(visit):
    """Let two visitors ask at once, and one of them stop a long answer."""
    one, other = visit(), visit()
    one.field("#talk-max_new_tokens").fill("200")
    one.page.click("#talk-recipe input")
    one.page.get_by_role("option", name="llada", exact=True).click()
    one.page.wait_for_selector("#talk-plan :text('EqualSplit')")
    one.ask("Compute 1 + 1.")
    other.ask("Compute 8 + 6.")
    one.page.wait_for_selector("#talk-canvas .dllm-new")
    one.page.click("#talk-stop")
    one.page.wait_for_selector("#talk-note :text('stop')")
    other.wait_for_answer()
    assert "8 + 6" in other.text("#talk-history") and "1 + 1" not in other.text("body")
    assert "1 + 1" in one.text("#talk-history") and "8 + 6" not in one.text("body")
