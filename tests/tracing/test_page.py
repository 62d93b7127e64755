"""The page of a trace in a real browser: it replays, by slider, keys and clicks, and loads nothing from elsewhere."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import dllm
from dllm import tracing
from tests.streaming.test_deltas import REQUESTS, tiny_with_tokenizer

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Any]:
    """The page, opened from disk on a phone in dark mode; errors and outside requests are collected in `page.wrong`."""
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("needs Chromium")
    certain = dllm.Strategy(dllm.TopK(k=2), dllm.Blocks(8), dllm.NoCache())
    tracing.record_trace(
        tmp_path / "run.jsonl", tiny_with_tokenizer("bidirectional", "byte-level"), REQUESTS[:2], certain, top=3
    )
    (tmp_path / "run.html").write_text(
        tracing.render_trace_page(tracing.read_trace(tmp_path / "run.jsonl")), encoding="utf-8"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        opened = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme="dark")
        opened.wrong = []
        opened.on("pageerror", lambda error: opened.wrong.append(str(error)))
        opened.on("console", lambda message: message.type == "error" and opened.wrong.append(message.text))
        opened.on("request", lambda request: request.url.startswith("file:") or opened.wrong.append(request.url))
        opened.goto((tmp_path / "run.html").as_uri())
        yield opened
        browser.close()


def test_it_replays(page: Any) -> None:
    status = page.locator("#status")
    assert "step 0 of 7 · 0 of 13 tokens" in status.inner_text()
    page.keyboard.press("ArrowRight")
    assert "step 1 of 7 · 2 of 13 tokens" in status.inner_text()
    assert page.locator("#canvas .new").count() == 2
    page.locator("#canvas .new").first.click()
    assert page.locator("#detail tr").count() == 3, "its candidates"
    page.locator("#slider").fill("3")
    assert "step 3 of 7" in status.inner_text()
    page.keyboard.press("End")
    assert "13 of 13 tokens" in status.inner_text() and "░" not in page.locator("#canvas").inner_text()
    page.locator("#heat button").first.click()
    assert "13 of 13" not in status.inner_text(), "to the step in which that token was decided"
    page.locator("#table tr").nth(1).click()
    assert "step 2 of 7" in status.inner_text()
    page.keyboard.press("Home")
    page.select_option("#speed", "32")
    page.click("#play")
    status.filter(has_text="step 7 of 7").wait_for(timeout=20000)
    page.select_option("#request", "1")
    assert "step 0 of" in status.inner_text() and "· 0 of" in status.inner_text()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390, "nothing is wider than a phone"
    assert page.wrong == []
