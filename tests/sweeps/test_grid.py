"""The file of a sweep: lists make a grid, and unknown fields are refused before any work."""

from __future__ import annotations

from pathlib import Path

import pytest

from dllm.compose.options import Options
from dllm.errors import ConfigError
from dllm.sweeps.grid import make_sweep, read_sweep

BASE = {"prompts": "word-problems"}


def cells(**given: object) -> list[str]:
    return [cell.label for cell in make_sweep(BASE | given).cells]


def test_lists_make_a_grid() -> None:
    labels = cells(strategies=[{"policy": "threshold", "tau": [0.6, "9e-1"], "cache": ["none", "dual"]}, "fast_dllm"])
    assert labels == [
        "threshold tau=0.6 cache=none", "threshold tau=0.6 cache=dual", "threshold tau=0.9 cache=none",
        "threshold tau=0.9 cache=dual", "fast_dllm",
    ]  # fmt: skip


def test_a_label_is_the_name_and_what_varies() -> None:
    assert cells(strategies=[{"name": "ours", "policy": "factor", "f": [1, 2]}, {"name": "theirs", "k": 1}]) == [
        "ours f=1.0", "ours f=2.0", "theirs",
    ]  # fmt: skip
    assert cells(strategies=[{}]) == ["default"]


def test_settings_and_models_make_a_grid_too() -> None:
    sweep = make_sweep(
        BASE | {"models": ["embedded", {"model": "embedded", "dtype": ["bfloat16"]}], "strategies": [{}],
                "batch_size": [1, 4], "seed": [0, 1], "max_new_tokens": 32, "limit": 3, "raw": True}
    )  # fmt: skip
    assert len(sweep.cells) == 8 and len({cell.key for cell in sweep.cells}) == 8
    assert [cell.checkpoint.title for cell in sweep.cells[::4]] == ["embedded", "embedded dtype=bfloat16"]
    assert [(c.job.seed, c.job.batch_size) for c in sweep.cells[:4]] == [(0, 1), (0, 4), (1, 1), (1, 4)]
    assert not sweep.cells[0].job.chat and sweep.cells[0].questions.limit == 3


def test_an_option_that_is_a_list_is_one_value() -> None:
    sweep = make_sweep(BASE | {"strategies": [
        {"stop": ["\n", "####"]}, {"stop": [["a"], ["b", "c"]]}, {"stop_ids": []}, {"processor": "credit-decoding"},
    ]})  # fmt: skip
    assert [cell.job.options for cell in sweep.cells] == [
        Options(stop=("\n", "####")), Options(stop=("a",)), Options(stop=("b", "c")), Options(stop_ids=()),
        Options(processor=("credit-decoding",)),
    ]  # fmt: skip


def test_a_strategy_can_be_for_one_model_only() -> None:
    models = [{"model": "embedded", "name": "one"}, {"model": "embedded", "name": "two", "dtype": "bfloat16"}]
    sweep = make_sweep(BASE | {"models": models, "strategies": [{"only": "two"}, {"k": 1, "policy": "top-k"}]})
    assert [(c.checkpoint.title, c.label) for c in sweep.cells] == [
        ("one", "top-k k=1"), ("two", "default"), ("two", "top-k k=1"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"strategys": []}, "strategys: no field of a sweep (did you mean 'strategies'?); it has models, prompts"),
        ({}, "strategies: not given"),
        ({"strategies": [{"tua": 1}]}, "tua: no field of a strategy"),
        ({"strategies": [{"gamma": 0.1}]}, 'write --policy "entropy-bound(gamma=0.1)"'),
        ({"strategies": [{"tau": "high"}]}, "tau: 'high': must be a number"),
        ({"strategies": [{"k": 1.5}]}, "k: 1.5: must be a whole number"),
        ({"strategies": [{"k": True}]}, "k: True: must be a whole number"),
        ({"strategies": [{"tau": []}]}, "give at least one value"),
        ({"strategies": [{"stop_ids": ["x"]}]}, "must be a list of token ids"),
        ({"strategies": [3]}, "a strategy is a mapping with"),
        ({"strategies": [{"tau": [0.9, 0.9]}]}, "are the same cell"),
        ({"strategies": [{"only": "other"}]}, "no such model in this sweep"),
        ({"strategies": [{}], "limit": [1, 2]}, "limit: [1, 2]: must be a whole number"),
        ({"strategies": [{}], "seed": "x"}, "seed: 'x': must be a whole number"),
        ({"strategies": [{}], "max_new_tokens": 0}, "max_new_tokens=0"),
        ({"strategies": [{}], "batch_size": 0}, "batch_size=0"),
        ({"strategies": [{}], "limit": 0}, "limit: 0: must be at least 1"),
        ({"strategies": [{}], "prompts": {"source": "words"}}, "choose from word-problems"),
        ({"strategies": [{}], "prompts": {"name": "x"}}, "give one of file and source"),
        ({"strategies": [{}], "prompts": {"file": "x", "check": "nubmer"}}, "did you mean 'number'"),
        ({"strategies": [{}], "models": [{"dtype": "float32"}]}, "no model; say model: NAME"),
    ],
)
def test_what_does_not_belong_is_refused(given: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_sweep(BASE | given).check()
    assert message in str(caught.value)


def test_all_cells_are_checked_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "q.jsonl").write_text('{"prompt": "a", "answer": "1"}\n')
    file = tmp_path / "s.yaml"
    file.write_text(
        "models: [embedded, nowhere/at-all]\nprompts: [q.jsonl, none.jsonl]\n"
        "strategies: [{policy: threshold, k: 2}, {policy: thresold}, {policy: factor}]\n"
    )
    with pytest.raises(ConfigError) as caught:
        read_sweep(file).check()
    message = str(caught.value)
    culprits = ("--k does not belong to threshold", "did you mean 'threshold'", "none.jsonl: No such file", "nowhere")
    for culprit in culprits:
        assert culprit in message
    file.write_text("a: [")
    with pytest.raises(ConfigError, match="broken YAML"):
        read_sweep(file)
