"""Trained models written as folders in a Hub format; a reader never sees a half-written folder.

| objective | format | stock class |
|---|---|---|
| block-diffusion | Fast-dLLM v2 (`Fast_dLLM_Qwen`; our `Fast_dLLM_Qwen3`, `Fast_dLLM_Llama`) | by `model_type` |
| full-attention | A2D (`a2d-qwen2`, `a2d-qwen3`, `a2d-llama`) | by `model_type` |
| next-token | the base's own | the base's |

Tensors have the names of the stock class in every format, so that this class reads the weights directly.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from dllm.training.base_model import KINDS, BaseModelInfo
from dllm.training.plan import TrainingPlan

CONFIG_KEYS = (
    "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "initializer_range",
    "attention_dropout", "attention_bias", "mlp_bias", "max_window_layers", "sliding_window", "use_sliding_window",
)  # fmt: skip

DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
SHARD = "5GB"


def _make_fast_dllm_config(
    config: Any, *, block: int, mask_id: int, end_id: int | list[int], pad_id: int, stock: str = "Qwen2ForCausalLM"
) -> dict[str, Any]:
    """Translate a stock config into the `config.json` of a Fast-dLLM v2 checkpoint."""
    kind = f"Fast_dLLM_{KINDS[stock]}"
    return {
        "architectures": [f"{kind}ForCausalLM"],
        "model_type": kind,
        "bd_size": block,
        **_make_shared_fields(config, mask_id, end_id, pad_id),
    }


def _make_a2d_config(config: Any, *, mask_id: int, end_id: int | list[int], pad_id: int, stock: str) -> dict[str, Any]:
    """Translate a stock config into the `config.json` of an A2D checkpoint."""
    name = stock.removesuffix("ForCausalLM")
    return {
        "architectures": [f"A2D{name}LMHeadModel"],
        "model_type": f"a2d-{name.lower()}",
        **_make_shared_fields(config, mask_id, end_id, pad_id),
    }


def _make_shared_fields(config: Any, mask_id: int, end_id: int | list[int], pad_id: int) -> dict[str, Any]:
    """Collect the fields that all formats share, with rotary parameters under the names that older readers expect."""
    rope = dict(config.rope_parameters)
    theta, kind = rope.pop("rope_theta"), rope.pop("rope_type", "default")
    return {
        "mask_token_id": mask_id,
        "eos_token_id": end_id,
        "pad_token_id": pad_id,
        "rope_theta": theta,
        "rope_scaling": None if kind == "default" else {"rope_type": kind, **rope},
        "torch_dtype": "float32",
        "use_cache": True,
        **{key: getattr(config, key) for key in CONFIG_KEYS if hasattr(config, key)},
    }


def export_model(folder: Path, network: Any, base: BaseModelInfo, plan: TrainingPlan, card: str) -> None:
    """Write a trained network whole, with its adapter merged into the weights.

    The network cannot be used afterwards.

    Args:
        folder: Folder to write, or to replace.
        network: Network after training.
        base: Facts about its base.
        plan: Plan of the run; its objective decides the format.
        card: Contents of README.md.
    """
    if hasattr(network, "merge_and_unload"):
        network = network.merge_and_unload()
    dtype = DTYPES.get(base.dtype, torch.float32)
    weights = {name: tensor.detach().to(dtype) for name, tensor in network.state_dict().items()}
    if network.config.tie_word_embeddings:
        weights.pop("lm_head.weight", None)
    ends = base.stop_ids[0] if len(base.stop_ids) == 1 else list(base.stop_ids)
    ids: dict[str, Any] = {"mask_id": base.mask_id, "end_id": ends, "pad_id": base.pad_id, "stock": base.stock}
    if plan.objective == "block-diffusion":
        config = _make_fast_dllm_config(network.config, block=plan.block, **ids)
    elif plan.objective == "full-attention":
        config = _make_a2d_config(network.config, **ids)
    else:
        config = {
            **_make_shared_fields(network.config, base.mask_id, ends, base.pad_id),
            **_make_stock_fields(base),
        }
    aside = folder.with_name(f".{folder.name}.new")
    write_model_folder(
        aside, weights, {**config, "torch_dtype": str(dtype).removeprefix("torch.")}, base.tokenizer, card
    )
    replace_folder(aside, folder)


def _make_stock_fields(base: BaseModelInfo) -> dict[str, Any]:
    """Name the base's own class and model type."""
    return {"architectures": [base.stock], "model_type": base.stock.removesuffix("ForCausalLM").lower()}


def export_adapter(folder: Path, network: Any, base: BaseModelInfo, card: str) -> Path:
    """Write a network's adapter alone, as PEFT reads it, with the tokenizer that has the mask token.

    Returns:
        The folder.
    """
    aside = folder.with_name(f".{folder.name}.new")
    network.peft_config["default"].base_model_name_or_path = base.name
    network.save_pretrained(str(aside), save_embedding_layers=False)
    base.tokenizer.save_pretrained(aside)
    (aside / "README.md").write_text(card, "utf-8")
    replace_folder(aside, folder)
    return folder


def write_model_folder(
    folder: Path, weights: dict[str, Tensor], config: dict[str, Any], tokenizer: Any, card: str | None = None
) -> None:
    """Write config, weights, tokenizer and generation config into `folder`, each file complete before it appears there.

    Args:
        folder: Folder to write into; made if it is missing.
        weights: Tensors under stock names; a tied `lm_head.weight` must be left out already.
        config: Contents of `config.json`.
        tokenizer: Tokenizer to save beside the weights.
        card: Contents of README.md, if any.
    """
    from huggingface_hub import save_torch_state_dict

    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder, prefix=".writing-") as aside_name:
        aside = Path(aside_name)
        tokenizer.save_pretrained(aside)
        save_torch_state_dict({n: t.contiguous() for n, t in weights.items()}, aside, max_shard_size=SHARD)
        (aside / "config.json").write_text(json.dumps(config, indent=2) + "\n")
        ids = {key: config[key] for key in ("eos_token_id", "pad_token_id", "mask_token_id")}
        (aside / "generation_config.json").write_text(json.dumps(ids, indent=2) + "\n")
        if card is not None:
            (aside / "README.md").write_text(card, "utf-8")
        _embed_template(aside)
        for path in sorted(aside.iterdir()):
            path.chmod(0o644)
            os.replace(path, folder / path.name)


def replace_folder(aside: Path, place: Path) -> None:
    """Move the finished folder `aside` to `place`, and remove the folder that was there."""
    old = place.with_name(place.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if place.exists():
        place.rename(old)
    aside.rename(place)
    shutil.rmtree(old, ignore_errors=True)


def _embed_template(folder: Path) -> None:
    """Move the chat template into tokenizer_config.json, the one place where every reader looks for it."""
    template = folder / "chat_template.jinja"
    if template.exists():
        path = folder / "tokenizer_config.json"
        config = json.loads(path.read_text())
        path.write_text(json.dumps({**config, "chat_template": template.read_text()}, indent=2) + "\n")
        template.unlink()
