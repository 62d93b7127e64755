"""Loading of a checkpoint: `transformers` reads it, and we choose the class, the options and the checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from dllm.errors import CheckpointError, ConfigError
from dllm.models import packing
from dllm.models.adapters import attach_adapter
from dllm.models.autoregressive import AutoregressiveModel
from dllm.models.checkpoint import CheckpointFiles, read_checkpoint
from dllm.models.compiled import CompiledModel
from dllm.models.encoder import EncoderModel
from dllm.models.families import FAMILIES
from dllm.models.families.special_ids import IdSource, require_mask_id, resolve_special_ids
from dllm.models.fused_layers import check_splits, loading_class
from dllm.models.parallel import make_distributed_config
from dllm.models.placement import choose_attention_kernels, resolve_device, resolve_dtype
from dllm.models.quantizing import make_quantization_config
from dllm.models.third_party import as_checkpoint_error, silence_transformers
from dllm.models.tokenizers import read_tokenizer
from dllm.models.transformer import TransformerModel
from dllm.models.weights import check_experts, fetch_weights, list_shards, read_headers, verify_weights
from dllm.types import BlockCausal

MASKED_ATTENTION = ("sdpa", "eager")
"""Attention functions of `transformers` that take the masks we bring."""


def load(
    name: str | Path | CheckpointFiles = "embedded",
    *,
    dtype: str | torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: str | Mapping[str, Any] | None = None,
    tensor_parallel: bool = False,
    quantization_config: Any = None,
    quantize: str | None = None,
    compile: bool = False,
    pack: bool | None = False,
    adapter: str | Path | None = None,
    mask_id: int | None = None,
    stop_ids: Sequence[int] | None = None,
    block_size: int | None = None,
    attention: str | None = None,
    cudnn_attention: bool = False,
    revision: str | None = None,
    tokenizer: bool = True,
    family: str | None = None,
) -> TransformerModel | AutoregressiveModel:
    """Load a checkpoint of any family in its original format.

    Never runs code of a checkpoint, never reads pickles.

    Args:
        name: A folder, a Hub id, or "embedded" for the model inside the package; or the small files of a checkpoint
            that were read already (`read_checkpoint`), whose family then counts.
        dtype: "float32", "bfloat16", …, or "auto" for the checkpoint's. None: "auto" on an accelerator and float32 on a
            CPU, where half precision is many times slower; but bfloat16 is faster where the CPU multiplies it itself
            (avx512_bf16, amx), most of all packed.
        device: Where the network goes. None: "cuda" where there is one, else "cpu".
        device_map: Handed to `transformers` as it is; not together with `device`.
        tensor_parallel: Whether to spread every layer over the processes of `torchrun`; not together with a device.
        quantization_config: Handed to `transformers` as it is.
        quantize: "int8", "int8-dynamic" or "int4": weights are quantised by torchao as they are loaded.
        compile: Whether to run forwards through `torch.compile`, on CUDA as graphs: `CompiledModel`. Slow at first.
        pack: Whether to lay out large weights for this CPU (`dllm.models.packing`): faster, but the network cannot be
            trained or saved. None: where that saves time and is known to do no harm.
        adapter: A PEFT adapter (folder or Hub id), kept apart from the weights, or merged if these are packed.
        mask_id: The mask token, in place of the checkpoint's.
        stop_ids: Ids that end a text, in place of the checkpoint's; () means that nothing does.
        block_size: Columns of an attention block, for a block-causal family.
        attention: "sdpa" or "eager". None: what `transformers` prefers.
        cudnn_attention: Whether to allow cuDNN's attention on CUDA, which takes long over every new shape.
        revision: Branch, tag or commit on the Hub.
        tokenizer: Whether to read the tokenizer; generation works from ids without.
        family: Name of the family, where config.json does not determine it: "a2d_bd3lm" for an A2D model trained in
            blocks, "open_dcoder", "autoregressive" for the plain model that another family would denoise with.

    Raises:
        CheckpointError: The checkpoint is at fault.
        ConfigError: An option is at fault.
    """
    if device is not None and device_map is not None:
        raise ConfigError(f"load(device={str(device)!r}, device_map={device_map!r}): give one of the two")
    if tensor_parallel and (device is not None or device_map is not None):
        raise ConfigError(
            "load(tensor_parallel=True): every process takes its own device; leave device, device_map out"
        )
    place = resolve_device(device, device_map)
    precision = resolve_dtype(dtype, place)
    found = name if isinstance(name, CheckpointFiles) else read_checkpoint(name, revision, family)
    kind = found.family
    if quantize is not None:
        if quantization_config is not None:
            raise ConfigError(f"load(quantize={quantize!r}, quantization_config=…): give one of the two")
        quantization_config = make_quantization_config(quantize, place)
    quantised = quantization_config is not None or "quantization_config" in found.config
    spread = device_map is not None or tensor_parallel
    able = not spread and not kind.head and not (quantised and adapter is not None)
    if pack:
        _check_packing(place, precision, able)
    _check_options(found, mask_id, block_size, attention)
    if compile and (found.plain or kind.head):
        raise ConfigError(f"compile: {found.name} is no diffusion decoder, and only these are compiled; leave it out")

    with silence_transformers():
        config = found.stock_config()
        words = read_tokenizer(found.folder, kind) if tokenizer else None
        source = IdSource(found.config, found.generation, words, config.vocab_size, found.added)
        ids = resolve_special_ids(kind, source, mask_id, stop_ids)
        mask = None if found.plain else require_mask_id(kind, found.name, ids)
        fetch_weights(found.name, found.folder, revision)
        stored = read_headers(list_shards(found.folder))
        check_experts(stored, found.folder)
        check_splits(kind, config, stored, found.folder)
        options: dict[str, Any] = {"dtype": precision}
        if tensor_parallel:
            options["distributed_config"] = make_distributed_config(found.name)
        elif device_map is not None or place.type != "cpu":
            options["device_map"] = device_map if device_map is not None else {"": place}
        if quantization_config is not None:
            options["quantization_config"] = quantization_config
        if attention is not None:
            options["attn_implementation"] = attention
        network = _load_network(found, config, options)
        if pack is None:
            pack = able and _packs_by_default(found, place, network, adapter)
        if adapter is not None:
            network = attach_adapter(network, adapter, kind, merge=pack)
        if pack:
            packing.pack_linear_layers(network)
    choose_attention_kernels(network.get_input_embeddings().weight.device, cudnn_attention)
    if found.plain:
        return AutoregressiveModel(network, words, ids.stop_ids, ids.pad_id, found.name)
    facts: dict[str, Any] = {
        "needs_left": kind.needs_left,
        "mask_id": mask,
        "stop_ids": ids.stop_ids,
        "pad_id": ids.pad_id,
        "family": kind.name,
        "name": found.name,
        "tokenizer": words,
        "cudnn_attention": cudnn_attention,
    }
    geometry = kind.geometry(found.config)
    if kind.head:
        return EncoderModel(network, geometry, **facts, head_modules=kind.head, first_position=kind.first_position)
    model = (CompiledModel if compile else TransformerModel)(network, geometry, **facts)
    return model if block_size is None else model.with_block(block_size)


def _check_packing(place: torch.device, precision: Any, able: bool) -> None:
    """Raise ConfigError where weights cannot be packed, as far as that is known before they are read.

    Args:
        place: Device of the network.
        precision: Its dtype, or "auto".
        able: Whether the weights are a decoder's, on one device, without an adapter that cannot be merged.
    """
    if not able:
        raise ConfigError(
            "pack: not for encoders, on several devices, or with an adapter on quantised weights; leave it out"
        )
    packing.check_packing_supported(place, torch.float32 if precision == "auto" else precision)


def _packs_by_default(found: CheckpointFiles, place: torch.device, network: Any, adapter: str | Path | None) -> bool:
    """Tell whether packing saves time and is known to be harmless.

    Of the plain causal models those are packed whose class runs a diffusion family too, so that what is compared is
    alike; others may read weights past their layers. An adapter, which would be merged, is not rounded to bfloat16.
    """
    precision = network.get_input_embeddings().weight.dtype
    if found.plain and found.family.stock not in {family.stock for family in FAMILIES}:
        return False
    return packing.is_packing_supported(place, precision) and (adapter is None or precision == torch.float32)


def _load_network(found: CheckpointFiles, config: Any, options: Mapping[str, Any]) -> Any:
    """Make the stock class with the checkpoint's weights, each of them checked.

    Raises:
        CheckpointError: The weights do not fit.
    """
    import transformers

    if (found.folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{found.folder}: holds both a model and an adapter; move the adapter's files to a folder of their own "
            "and pass that as adapter"
        )
    renames = found.family.key_mapping()
    with as_checkpoint_error(f"{found.folder}: {found.family.stock} cannot load it"):
        network, report = loading_class(found.family).from_pretrained(
            str(found.folder),
            config=config,
            key_mapping=renames or None,
            use_safetensors=True,
            trust_remote_code=False,
            generation_config=transformers.GenerationConfig(),
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that `verify_weights` can name all that is wrong
            **options,
        )
    if found.family.splits:
        network.__class__ = getattr(transformers, found.family.stock)
    verify_weights(found, network, report)
    if renames or found.family.splits:
        network._weight_conversions = None  # else save_pretrained would write the original names under a stock config
    return network


def _check_options(found: CheckpointFiles, mask_id: int | None, block_size: int | None, attention: str | None) -> None:
    """Raise ConfigError for options that cannot work with this family, before anything large is read."""
    if found.plain and mask_id is not None:
        raise ConfigError(
            f"mask_id / --mask-id {mask_id}: {found.name} is a plain causal language model without a mask"
        )
    if not found.plain and attention is not None and attention not in MASKED_ATTENTION:
        raise ConfigError(
            f"attention={attention!r}: a diffusion model brings its own masks, which only "
            f"{' and '.join(map(repr, MASKED_ATTENTION))} take"
        )
    if block_size is not None:
        if found.plain or not isinstance(found.family.geometry(found.config), BlockCausal):
            raise ConfigError(f"block_size={block_size}: {found.family.title} has no attention block to set")
        BlockCausal(block_size)
