"""The weights of a checkpoint: safetensors files only, found, checked, and compared with what the config asks for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from dllm.errors import CheckpointError
from dllm.models.checkpoint import CheckpointFiles, download_snapshot, is_local, read_json
from dllm.models.third_party import as_checkpoint_error

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


class TensorHeader(NamedTuple):
    """A tensor as its file declares it.

    Attributes:
        dtype: Its dtype in the words of safetensors (F32, BF16, …).
        shape: Its shape.
    """

    dtype: str
    shape: tuple[int, ...]


def fetch_weights(name: str | Path, folder: Path, revision: str | None) -> None:
    """Make sure that the weights are in the folder: download them where the checkpoint is on the Hub."""
    if is_local(name):
        return
    wanted = sorted(_list_indexed_shards(folder)) if (folder / INDEX).is_file() else [SINGLE]
    download_snapshot(str(name), revision, wanted)
    if not (folder / wanted[0]).is_file():
        # A download of files that are not there succeeds. The list of what is there tells whether these are pickles.
        from huggingface_hub import list_repo_files

        with as_checkpoint_error(f"{name}: the Hub has no {wanted[0]} for it"):
            _refuse_pickles(list_repo_files(str(name), revision=revision), f"{name}/")


def list_shards(folder: Path) -> list[Path]:
    """List the safetensors files of a folder.

    Raises:
        CheckpointError: There are none, or one is missing.
    """
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if (folder / INDEX).is_file():
        files = [folder / file for file in sorted(_list_indexed_shards(folder))]
        for file in files:
            if not file.is_file():
                raise CheckpointError(f"{file}: missing, though {INDEX} lists it; download the checkpoint again")
        return files
    _refuse_pickles((file.name for file in folder.iterdir()), f"{folder}/")
    raise CheckpointError(f"{folder}: no weights ({SINGLE}, or {INDEX} with its shards); download the checkpoint again")


def read_headers(files: Iterable[Path]) -> dict[str, TensorHeader]:
    """Read name, dtype and shape of every tensor, without the weights.

    Raises:
        CheckpointError: A file's header, or its length, is not what it should be.
    """
    from safetensors import safe_open

    found: dict[str, TensorHeader] = {}
    for file in files:
        with (
            as_checkpoint_error(
                f"{file}: not a readable safetensors file", "; it is corrupt or cut short: download it again"
            ),
            safe_open(file, framework="pt") as content,
        ):
            for key in sorted(content.keys()):
                part = content.get_slice(key)
                found[key] = TensorHeader(part.get_dtype(), tuple(part.get_shape()))
    return found


def check_experts(found: Mapping[str, TensorHeader], place: Path) -> None:
    """Check the experts of a mixture against each other, before `transformers` merges them.

    It merges a layer's experts into one tensor, and does not say which of them does not fit.

    Args:
        found: Tensors on disk, by name.
        place: Where they are, for messages.

    Raises:
        CheckpointError: An expert lacks a tensor that experts of other layers have, or has it in another shape.
    """
    # A name is `start layer middle number end`, as in model.layers. 3 .mlp.experts. 7 .up_proj.weight. Tensors of one
    # start, middle and end have one shape; layers of one start and middle have the same experts with the same tensors.
    usual: dict[tuple[str, ...], tuple[int, ...]] = {}
    there: dict[tuple[str, str, str], set[str]] = {}
    for name in sorted(found, key=_natural_sort_key):
        if not (match := re.fullmatch(r"(.*?\.)(\d+)(\..*experts\.)(\d+)(\..*)", name)):
            continue
        start, layer, middle, number, end = match.groups()
        shape = usual.setdefault((start, middle, end), found[name].shape)
        if found[name].shape != shape:
            raise CheckpointError(
                f"{place}: tensor {name} has shape {found[name].shape}, others of its kind have {shape}"
            )
        there.setdefault((start, middle, layer), set()).add(number + end)
    for (start, middle, layer), own in there.items():
        alike = set().union(*(parts for key, parts in there.items() if key[:2] == (start, middle)))
        if missing := sorted(alike - own, key=_natural_sort_key):
            more = f" (and {len(missing) - 1} more such)" if len(missing) > 1 else ""
            raise CheckpointError(
                f"{place}: tensor {start}{layer}{middle}{missing[0]} is missing{more}; download the checkpoint again"
            )


def verify_weights(found: CheckpointFiles, network: Any, report: Mapping[str, Any]) -> None:
    """Check that every tensor on disk has found its place, and every place its tensor.

    Args:
        found: The checkpoint.
        network: The loaded network.
        report: What `from_pretrained` returns as loading info.

    Raises:
        CheckpointError: A tensor is missing, unexpected or of a wrong shape; it is named as it is called on disk.
    """
    disk, problems = found.family.disk_name, []
    for key, got, expected in sorted(report["mismatched_keys"], key=lambda entry: _natural_sort_key(entry[0])):
        problems.append(f"tensor {disk(key)} has shape {tuple(got)}, but config.json asks for {tuple(expected)}")
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items() if isinstance(value, Tensor)}
    for key in sorted(report["missing_keys"], key=_natural_sort_key):
        problems.append(f"tensor {disk(key)} of shape {shapes.get(key, '?')} is missing")
    for key in sorted(filter(found.family.needs, report["unexpected_keys"]), key=_natural_sort_key):
        problems.append(f"tensor {disk(key)} is unexpected: config.json has no place for it")
    problems += [str(message) for message in report.get("error_msgs", ())]
    if not problems and _has_untied_head(network):
        problems.append("config.json ties the head to the embedding, but the weights hold two that differ")
    if problems:
        more = f" (and {len(problems) - 1} more such)" if len(problems) > 1 else ""
        raise CheckpointError(f"{found.folder}: {problems[0]}{more}; config.json and weights do not belong together")


def _has_untied_head(network: Any) -> bool:
    """Tell whether the config ties head and embedding but `transformers` found two different ones."""
    head, embedding = network.get_output_embeddings(), network.get_input_embeddings()
    if not getattr(network.config, "tie_word_embeddings", False) or head is None or head.weight.is_meta:
        return False
    if head.weight.device != embedding.weight.device:  # spread over devices, a tied weight is there twice
        return False
    return bool(head.weight.data_ptr() != embedding.weight.data_ptr())


def _list_indexed_shards(folder: Path) -> set[str]:
    """List the names of the shards in an index.

    Raises:
        CheckpointError: One is not a safetensors file of this folder. A name with a path in it could lead out of it.
    """
    listed = read_json(folder / INDEX).get("weight_map")
    if not isinstance(listed, dict) or not listed:
        raise CheckpointError(f"{folder / INDEX}: has no weight_map; download the checkpoint again")
    for file in listed.values():
        if not isinstance(file, str) or Path(file).name != file or not file.endswith(".safetensors"):
            raise CheckpointError(f"{folder / INDEX}: lists {file!r}; only safetensors files of this folder are loaded")
    return set(listed.values())


def _refuse_pickles(files: Iterable[str], place: str) -> None:
    """Raise CheckpointError for the first file that is a pickle."""
    for file in sorted(file for file in files if file.endswith(PICKLES)):
        raise CheckpointError(
            f"{place}{file}: pickled weights can run code and are never loaded; convert them to {SINGLE} first "
            "(load them where you trust them and save_pretrained again)"
        )


def _natural_sort_key(key: str) -> list[Any]:
    """Make a sort key by which layer 10 comes after layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", key)]
