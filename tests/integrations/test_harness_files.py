"""Files and limits of the harness: JSONL with broken lines, and prompts that are too long."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from dllm.errors import ConfigError, RequestError
from dllm.integrations.harness.context_limit import ContextLimit
from dllm.integrations.harness.json_lines import read_json_lines, remove_partial_line

LINES = '{"a": "one\u2028line"}\n\n  \n[2]\n'


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_lines_end_at_line_feeds_alone_and_blank_ones_are_left_out(name: str, tmp_path: Path) -> None:
    raw = LINES.encode()
    (tmp_path / name).write_bytes(gzip.compress(raw) if name.endswith(".gz") else raw)
    assert list(read_json_lines(tmp_path / name)) == [{"a": "one\u2028line"}, [2]]


def test_a_broken_line_is_named_or_left_out(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(LINES + '{"cut')
    with pytest.raises(ConfigError, match=r"rows\.jsonl:5: not JSON"):
        list(read_json_lines(path))
    assert len(list(read_json_lines(path, skip_broken=True))) == 2
    remove_partial_line(path)
    assert path.read_text() == LINES
    remove_partial_line(path)
    assert path.read_text() == LINES, "complete lines stay"


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl.gz").write_bytes(b"not compressed")
    for name in ("rows.jsonl.gz", "nowhere.jsonl"):
        with pytest.raises(ConfigError, match=name):
            list(read_json_lines(tmp_path / name))


@pytest.mark.parametrize("truncate", [False, True])
def test_a_prompt_loses_its_beginning_only_where_that_is_allowed(truncate: bool) -> None:
    limit = ContextLimit(8, "tiny", truncate)
    assert limit.fit([1, 2, 3], 5, "a prompt", "give less") == (1, 2, 3)
    for prompt, following in (([1, 2, 3], 8), ([], 9)):  # nothing of the prompt would be left
        with pytest.raises(
            RequestError, match="a prompt do not fit the 8 columns of tiny: give less, or truncate=True"
        ):
            limit.fit(prompt, following, "a prompt", "give less")
    if truncate:
        assert limit.fit([1, 2, 3], 7, "a prompt", "give less") == (3,) and limit.truncated == 1
    else:
        with pytest.raises(RequestError, match="do not fit"):
            limit.fit([1, 2, 3], 7, "a prompt", "give less")
        assert limit.truncated == 0
