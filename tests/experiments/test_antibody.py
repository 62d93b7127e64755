"""AntiBERTy's wheel becomes a checkpoint, and the experiment on it runs; with a tiny random model in its place."""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from zipfile import ZipFile

import pytest
import torch
import typer
from transformers import BertConfig, BertForMaskedLM

import dllm
from experiments import antiberty, antibody
from experiments.antibody_sequences import ANTIBODIES

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"ACDEFGHIKLMNPQRSTVWY"]


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A wheel laid out as AntiBERTy's, with a head that is to be left out."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=25, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=512,
    )  # fmt: skip
    tensors = dict(BertForMaskedLM(config).state_dict())
    tensors["cls.species.weight"] = torch.zeros(6, 32)
    data = io.BytesIO()
    torch.save(tensors, data)
    monkeypatch.setattr(antiberty, "SHA256", hashlib.sha256(data.getvalue()).hexdigest())
    path = tmp_path / "antiberty.whl"
    with ZipFile(path, "w") as archive:
        archive.writestr(antiberty.WEIGHTS, data.getvalue())
        archive.writestr(f"{antiberty.INSIDE}/AntiBERTy_md_smooth/config.json", json.dumps(config.to_dict()))
        archive.writestr(f"{antiberty.INSIDE}/vocab.txt", "\n".join(VOCABULARY))
    return path


def test_the_wheel_becomes_a_checkpoint(wheel: Path, tmp_path: Path) -> None:
    antiberty.convert_wheel(wheel, tmp_path / "model")
    model = dllm.load(tmp_path / "model")
    assert model.mask_id == 4
    assert model.tokenizer.encode("E V Q") == [2, 8, 22, 18, 3]
    with pytest.raises(typer.BadParameter, match="a model already"):
        antiberty.convert_wheel(wheel, tmp_path / "model")


def test_other_bytes_are_refused(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(antiberty, "SHA256", "0" * 64)
    with pytest.raises(typer.BadParameter, match="SHA-256"):
        antiberty.convert_wheel(wheel, tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_sequences_are_filled_in(wheel: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(antibody, "SHARES", (0.05, 0.15))
    antiberty.convert_wheel(wheel, tmp_path / "model")
    antibody.main(model=str(tmp_path / "model"), count=1, output=tmp_path / "found.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "found.jsonl").read_text().splitlines()]
    length = len(next(iter(ANTIBODIES.values())))
    for row in rows:
        assert row["masked"] == round(row["share"] * length)
        if row["rule"].endswith("one a step"):
            assert row["forwards"] == row["masked"]
        if row["rule"] == "all at once":
            assert row["forwards"] == 1
    assert (tmp_path / "found.png").exists()


@pytest.mark.parametrize("name", ANTIBODIES)
def test_sequences_are_amino_acids(name: str) -> None:
    assert set(ANTIBODIES[name]) <= set(VOCABULARY[5:])
    assert 100 <= len(ANTIBODIES[name]) <= 130
