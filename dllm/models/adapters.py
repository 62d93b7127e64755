"""A PEFT adapter on top of a loaded network, also one that was trained on a family's original module names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dllm.errors import CheckpointError, ConfigError
from dllm.models.checkpoint import locate_checkpoint, read_json
from dllm.models.families import Family
from dllm.models.third_party import as_checkpoint_error
from dllm.models.weights import read_headers

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."


def attach_adapter(network: Any, adapter: str | Path, family: Family, merge: bool = False) -> Any:
    """Put an adapter's layers into a network.

    Args:
        network: The loaded network.
        adapter: A folder, or a Hub id.
        family: The network's family, whose original module names the adapter may use.
        merge: Whether to add the adapter to the network's own weights. Otherwise they stay apart, so that quantised
            networks work too.

    Returns:
        The network, of the same stock class.

    Raises:
        ConfigError: `peft` is not installed.
        CheckpointError: The adapter is broken or does not fit.
    """
    try:
        from peft import PeftConfig, PeftModel
    except ImportError:
        raise ConfigError(f"adapter={str(adapter)!r} needs the package peft: pip install peft") from None

    folder = locate_checkpoint(adapter, None, [CONFIG, WEIGHTS])
    for file in (CONFIG, WEIGHTS):
        if not (folder / file).is_file():
            raise CheckpointError(
                f"{folder}: no {file}; an adapter is a folder with {CONFIG} and {WEIGHTS} (never .bin)"
            )
    read_json(folder / CONFIG)
    keys = [key.removeprefix(PREFIX) for key in read_headers([folder / WEIGHTS])]
    options: dict[str, Any] = {}
    with as_checkpoint_error(f"{folder}: the adapter does not fit {type(network).__name__}"):
        config = PeftConfig.from_pretrained(str(folder))
        if any(family.stock_name(key) != key for key in keys):
            _rename_target_modules(config, family, keys)
            options["key_mapping"] = family.key_mapping()
        device = str(network.get_input_embeddings().weight.device)
        wrapped = PeftModel.from_pretrained(network, str(folder), config=config, torch_device=device, **options)
    _verify_adapter_tensors(wrapped, folder, {family.stock_name(key) for key in keys})
    return wrapped.merge_and_unload() if merge else wrapped.get_base_model()


def _rename_target_modules(config: Any, family: Family, keys: list[str]) -> None:
    """Point an adapter config with original names at the stock modules that its tensors belong to."""
    for pattern in ("rank_pattern", "alpha_pattern", "modules_to_save"):
        if getattr(config, pattern, None):
            raise CheckpointError(
                f"adapter with {pattern}: not supported on the original module names of {family.title}; "
                "merge it into the checkpoint first"
            )
    config.target_modules = {family.stock_name(key).split(".lora_")[0] for key in keys}


def _verify_adapter_tensors(wrapped: Any, folder: Path, given: set[str]) -> None:
    """Raise CheckpointError unless every tensor of the adapter has found its place, and every place its tensor.

    `peft` itself only warns of the one and ignores the other.
    """
    from peft import get_peft_model_state_dict

    state = get_peft_model_state_dict(wrapped, save_embedding_layers=False)
    expected = {key.removeprefix(PREFIX) for key in state}
    for problem, names in (("lacks tensor", expected - given), ("has no place here for tensor", given - expected)):
        if names:
            raise CheckpointError(
                f"{folder}: the adapter {problem} {min(names)} ({len(names)} such); it was made for another model"
            )
