"""Layers that are one matrix on disk and several in the stock class, taken apart while they are read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from dllm.errors import CheckpointError
from dllm.models.families import Family
from dllm.models.weights import TensorHeader


def loading_class(family: Family) -> Any:
    """Return the class that reads a family's checkpoints: the stock class, or a child of it if layers are to be split.

    `transformers` looks up by class how weights are converted. A child of its own leaves the stock class as it is for
    everyone else; the caller makes the loaded network one of the stock class again.
    """
    import transformers

    stock = getattr(transformers, family.stock)
    if not family.splits:
        return stock
    from transformers import conversion_mapping
    from transformers.core_model_loading import Split, WeightConverter, WeightRenaming

    # It gets the module of its parent, else it would count as foreign code, for which nothing is looked up.
    child = type(f"{stock.__name__}Of{type(family).__name__}", (stock,), {"__module__": stock.__module__})
    parts: list[WeightConverter | WeightRenaming] = [
        WeightConverter(
            source_patterns=[_weight_pattern(disk)],
            target_patterns=[_weight_pattern(name) for name in names],
            operations=[Split(dim=0)],
        )
        for disk, names in family.splits
    ]
    conversion_mapping.register_checkpoint_conversion_mapping(child.__name__, parts, overwrite=True)
    return child


def check_splits(family: Family, config: Any, found: Mapping[str, TensorHeader], place: Path) -> None:
    """Check that layers to split have the outputs that the config asks for.

    `transformers` does not say which layer did not fit.

    Args:
        family: The checkpoint's family.
        config: Config of the stock class.
        found: Tensors on disk, by name.
        place: Where they are, for messages.

    Raises:
        CheckpointError: One has another number of outputs.
    """
    import transformers

    if not family.splits:
        return
    with torch.device("meta"):
        network = getattr(transformers, family.stock)(config)
    wanted: Counter[str] = Counter()
    for name, weight in network.named_parameters():
        if (disk := family.disk_name(name)) in found and family.stock_name(disk) != name:
            wanted[disk] += len(weight)
    for name, rows in wanted.items():
        if found[name].shape[0] != rows:
            raise CheckpointError(
                f"{place}: tensor {name} has shape {found[name].shape}, but config.json asks for {rows} rows; "
                "config.json and weights do not belong together"
            )


def _weight_pattern(module: str) -> str:
    """Make the pattern for the weight of a module in any layer; `transformers` matches the end of a name."""
    return module.rpartition("{i}.")[2] + ".weight"
