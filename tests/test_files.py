"""Files that survive interruptions: whole or as before, line by line, and one writer at a time."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from dllm.errors import ConfigError
from dllm.files import AppendOnlyFile, read_yaml, write_atomically


def test_a_file_is_replaced_as_a_whole(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    for text in ("old", "new"):
        with write_atomically(path) as temporary:
            temporary.write_text(text)
            assert not path.exists() or path.read_text() == "old"
        assert path.read_text() == text and list(tmp_path.iterdir()) == [path]


def test_an_exception_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text("old")

    def write_half() -> None:
        with write_atomically(path) as temporary:
            temporary.write_text("half of the n")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_lines_are_appended_behind_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for line in (b"1\n", b"2\n"):
        file = AppendOnlyFile(path, "job", "wait")
        file.append(line)
        file.close()
    assert path.read_bytes() == b"1\n2\n"


def test_of_a_line_that_does_not_fit_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, write = tmp_path / "rows.jsonl", os.write
    file = AppendOnlyFile(path, "job", "wait")
    file.append(b"first\n")
    room = [3]

    def write_until_full(descriptor: int, data: Any) -> int:
        if not room[0]:
            raise OSError(28, "No space left on device")
        room[0] -= (n := write(descriptor, data[: room[0]]))
        return n

    with monkeypatch.context() as patch:
        patch.setattr("dllm.files.os.write", write_until_full)
        with pytest.raises(OSError, match=r"No space left.*rows\.jsonl"):
            file.append(b"second\n")
    assert path.read_bytes() == b"first\n" and file.size == 6
    file.append(b"third\n")
    assert path.read_bytes() == b"first\nthird\n"
    file.close()


def test_one_writer_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    first = AppendOnlyFile(path, "job", "wait")
    with pytest.raises(ConfigError, match=r"rows\.jsonl: another job is writing to it; wait for that, or wait"):
        AppendOnlyFile(path, "job", "wait")
    first.close()
    AppendOnlyFile(path, "job", "wait").close()


def test_a_device_is_written_to_and_not_locked() -> None:
    files = [AppendOnlyFile(Path(os.devnull), "job", "wait") for _ in range(2)]
    for file in files:
        assert not file.is_regular
        file.append(b"x\n")
        file.close()


def test_yaml_errors_name_the_file(tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    with pytest.raises(ConfigError, match=r"sweep\.yaml: No such file"):
        read_yaml(path)
    path.write_text("a: [")
    with pytest.raises(ConfigError, match=r"sweep\.yaml: broken YAML"):
        read_yaml(path)
    path.write_text("a: [1, 2]")
    assert read_yaml(path) == {"a": [1, 2]}
