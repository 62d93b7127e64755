"""Makes a checkpoint that `dllm.load` reads of AntiBERTy, a real masked language model that PyPI carries.

Question: none; a masked language model of antibody sequences (Ruffolo et al. 2021, arXiv:2112.07782; MIT; 26 million
          parameters, a BERT of 8 layers over 20 amino acids) for the experiments that need attention in both
          directions.
Method:   the weights lie in the wheel `antiberty` as a torch state dict. It is read once, out of the one file whose
          SHA-256 is written here, by `torch.load(weights_only=True)`, which unpickles tensors and nothing else, and
          saved as safetensors with the stock names of `BertForMaskedLM`. The heads for species, chain and graft are
          left out, as is the pooler that only they read.
Run:      pip download --no-deps antiberty==0.1.3
          python -m experiments.antiberty antiberty-0.1.3-py3-none-any.whl runs/antiberty
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Annotated
from zipfile import ZipFile

import torch
import typer
from safetensors.torch import save_file
from transformers import BertTokenizer

INSIDE = "antiberty/trained_models"
WEIGHTS = f"{INSIDE}/AntiBERTy_md_smooth/pytorch_model.bin"
SHA256 = "f1ae33eac8cc8784a7d4be5a600141d2fa7bc7d8d5b3f5324d64a6a63bd0f137"
UNUSED = ("cls.species.", "cls.chain.", "cls.graft.", "bert.pooler.", "bert.embeddings.position_ids")


def convert_wheel(wheel: Path, folder: Path) -> None:
    """Write config.json, the tokenizer and model.safetensors into a folder that has no model."""
    if (folder / "model.safetensors").exists():
        raise typer.BadParameter(f"{folder}: there is a model already")
    with ZipFile(wheel) as archive:
        data = archive.read(WEIGHTS)
        config = json.loads(archive.read(f"{INSIDE}/AntiBERTy_md_smooth/config.json"))
        words = archive.read(f"{INSIDE}/vocab.txt")
    if (found := hashlib.sha256(data).hexdigest()) != SHA256:
        raise typer.BadParameter(f"{wheel}: {WEIGHTS} has the SHA-256 {found}, not that of antiberty 0.1.3, {SHA256}")
    stored = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    tensors = {name: value.contiguous() for name, value in stored.items() if not name.startswith(UNUSED)}
    del tensors["cls.predictions.decoder.weight"], tensors["cls.predictions.decoder.bias"]  # tied: stored elsewhere
    folder.mkdir(parents=True, exist_ok=True)
    settings = {name: value for name, value in config.items() if not name.startswith("_")}
    (folder / "config.json").write_text(json.dumps(settings | {"architectures": ["BertForMaskedLM"]}, indent=2))
    vocabulary = {word: i for i, word in enumerate(words.decode().split())}
    BertTokenizer(vocab=vocabulary, do_lower_case=False).save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main(
    wheel: Annotated[Path, typer.Argument(help="antiberty-0.1.3-py3-none-any.whl", exists=True)],
    folder: Annotated[Path, typer.Argument(help="Where to write the checkpoint.")],
) -> None:
    """Convert AntiBERTy's weights into a checkpoint in stock format."""
    convert_wheel(wheel, folder)


if __name__ == "__main__":
    typer.run(main)
