"""The page of a sweep: one file, escaped, with the content of its table."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from dllm.errors import ConfigError
from dllm.sweeps.report import render_sweep_page, write_sweep_page
from dllm.sweeps.table import SweepTable, read_table

EVIL = '<script>alert("&$1$")</script>'


class Reader(HTMLParser):
    """Tags and links of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href", "data")]


def test_a_page_loads_nothing_and_escapes_everything(row) -> None:
    rows = [row("slow", 90, 1.0), row(EVIL, 80, 3.0), row("beaten", 70, 2.0), row(EVIL, 5, prompts=EVIL, model=EVIL)]
    rows.append(row("unscored", 0, prompts="texts", accuracy=None, scored=0, certified_share=None))
    text = render_sweep_page(rows, EVIL)
    reader = Reader()
    reader.feed(text)
    assert reader.tags.count("script") == 1 and "alert" not in re.findall("<script>(.*?)</script>", text, re.DOTALL)[0]
    assert all(link.startswith("#") for link in reader.links)
    assert not re.search(r"url\((?!['\"]?#)|@import", text)
    assert reader.tags.count("svg") == 2, "a set of prompts without answers has no plot"
    assert text.count("<tr class=front>") == 3, "slow and the fastest lead, the beaten one does not"
    assert "prefers-color-scheme: dark" in text and "var(--ink)" in text and "#010203" not in text
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))


def test_an_empty_table_has_no_page() -> None:
    with pytest.raises(ConfigError, match="no cell is done"):
        render_sweep_page([], "x")


def test_a_page_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    write_sweep_page("old", path)
    with pytest.raises(UnicodeEncodeError):
        write_sweep_page("\udc80", path)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_table_is_continued_and_foreign_files_are_left_alone(tmp_path: Path, row) -> None:
    path = tmp_path / "t" / "table.jsonl"
    with SweepTable(path) as table:
        table.append(row("a", 1))
        with pytest.raises(ConfigError, match="another sweep is writing"):
            SweepTable(path)
    whole = path.read_bytes()
    path.write_bytes(whole + whole[:40])
    assert len(read_table(path.parent)) == 1
    with SweepTable(path) as table:
        assert "a" in table and "b" not in table
        table.append(row("b", 2))
    assert path.read_bytes().startswith(whole) and [r["cell"] for r in read_table(path)] == ["a", "b"]
    for notes in (b"my notes\n", b"my notes", b'{"id": 1}\n'):
        path.write_bytes(notes)
        with pytest.raises(ConfigError, match="line 1 is not a cell"):
            SweepTable(path)
        assert path.read_bytes() == notes
    with pytest.raises(ConfigError, match="No such file"):
        read_table(tmp_path / "none.jsonl")
