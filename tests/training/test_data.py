"""Every format becomes the same conversations, and every kind of bad row is named by file, line and kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dllm.errors import ConfigError
from dllm.training.data import DataProblem, DataRecord, check_data_files, read_data_files

ASKED, ANSWERED = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}


def read(path: Path, content: str | bytes) -> list[DataRecord | DataProblem]:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    check_data_files([str(path)])
    return list(read_data_files([str(path)]))


GOOD: list[dict[str, Any]] = [
    {"messages": [ASKED, ANSWERED]},
    {"messages": [ASKED, ANSWERED, {"role": "user", "content": "left over"}]},
    {"instruction": "Why?", "input": "", "output": "So."},
    {"instruction": "Why?", "output": "So."},
    {"prompt": "Why?", "completion": "So."},
    {"prompt": "Why?", "response": "So."},
    {"question": "Why?", "answer": "So."},
]


@pytest.mark.parametrize("row", GOOD, ids=lambda row: "+".join(row))
def test_every_format_of_a_conversation_reads_the_same(tmp_path: Path, row: dict[str, Any]) -> None:
    (lines,) = read(tmp_path / "a.jsonl", json.dumps(row) + "\n")
    (listed,) = read(tmp_path / "a.json", json.dumps([row]))
    assert lines == DataRecord(f"{tmp_path}/a.jsonl:1", (ASKED, ANSWERED))
    assert listed == DataRecord(f"{tmp_path}/a.json:row 1", (ASKED, ANSWERED))


def test_alpacas_input_follows_its_instruction(tmp_path: Path) -> None:
    (record,) = read(tmp_path / "a.jsonl", '{"instruction": "Sort.", "input": "b a", "output": "a b"}')
    assert isinstance(record, DataRecord) and record.messages[0]["content"] == "Sort.\n\nb a"


def test_texts_are_documents(tmp_path: Path) -> None:
    assert read(tmp_path / "a.txt", "One.\n\nTwo.\n") == [DataRecord(f"{tmp_path}/a.txt:1", text="One.\n\nTwo.\n")]
    assert read(tmp_path / "a.jsonl", '{"text": "One."}\n') == [DataRecord(f"{tmp_path}/a.jsonl:1", text="One.")]


BAD = {
    "": "empty row",
    "   ": "empty row",
    "{}": "empty row",
    '{"messages": []}': "empty row",
    '{"text": " "}': "empty row",
    '{"prompt": " ", "completion": "x"}': "empty row",
    '{"prompt": "x": }': "broken JSON",
    '{"prompt": "x", "comple': "broken JSON",
    '{"messages": [{"role": "user", "content": "x"}]}': "no response",
    '{"prompt": "x", "completion": " "}': "no response",
    '{"prompt": "x"}': "no response",
    '{"instruction": "x", "input": "y"}': "no response",
    '{"question": "x"}': "no response",
    '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": ""}]}': "no response",
    '{"messages": "x"}': "not a row",
    '{"messages": [{"role": "user"}]}': "not a row",
    '{"messages": [{"role": "robot", "content": "x"}]}': "not a row",
    '{"prompt": 3, "completion": "x"}': "not a row",
    '{"foo": "x"}': "not a row",
    "[1, 2]": "not a row",
    "7": "not a row",
}


@pytest.mark.parametrize("line", BAD)
def test_a_bad_row_is_a_problem_with_its_line(tmp_path: Path, line: str) -> None:
    good = json.dumps(GOOD[0])
    first, problem, last = read(tmp_path / "a.jsonl", f"{good}\n{line}\n{good}\n")
    assert isinstance(first, DataRecord) and isinstance(last, DataRecord)
    assert isinstance(problem, DataProblem), problem
    assert (problem.place, problem.kind) == (f"{tmp_path}/a.jsonl:2", BAD[line])
    assert problem.message


def test_bytes_that_are_no_text_are_a_problem(tmp_path: Path) -> None:
    (problem,) = read(tmp_path / "a.jsonl", b'{"text": "\xff"}\n')
    assert isinstance(problem, DataProblem) and problem.kind == "broken JSON"
    (problem,) = read(tmp_path / "a.txt", b"\xff\xfe\x00")
    assert isinstance(problem, DataProblem) and problem.kind == "not UTF-8"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '[{"text": "x"}', "a.json: broken JSON"),
        ("a.json", '{"text": "x"}', "a.json: holds a dict"),
        ("a.csv", "x", "must end in .jsonl, .json or .txt"),
    ],
)
def test_a_file_that_is_wrong_as_a_whole_is_an_error(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / name, content)


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nope\.jsonl: no such file"):
        check_data_files([str(tmp_path / "nope.jsonl")])
