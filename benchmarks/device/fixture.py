"""Make the small folder of recordings that is used where the workshop's was not carried.

The published loop (`baselines/fast_dllm_v1.py`), on the CPU in float32, on a tiny random LLaDA in its original format:
three caches, two rules, unequal prompts. Runs that another rounding would change are left out: every case stays the
same when all logits are made a little larger or smaller.

Run: python -m benchmarks.device.fixture
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import torch
from safetensors.torch import save_file

from benchmarks.baselines.fast_dllm_v1 import decode_as_published
from benchmarks.device.recordings import FIXTURE
from dllm.models.families.llada import NAMES
from dllm.testing.tiny import MASK, STOP, VOCABULARY, tiny_network

NAME = "llada-fixture"
RULES: tuple[dict[str, Any], ...] = (
    {"policy": "threshold", "threshold": 0.6, "factor": None},
    {"policy": "threshold", "threshold": 0.9, "factor": None},
    {"policy": "factor", "threshold": None, "factor": 1.0},
    {"policy": "factor", "threshold": None, "factor": 2.0},
)
NUDGES = (0.995, 1.005)
"""Factors on the head's weights under which a case must not change."""


def save_checkpoint() -> None:
    """Write the tiny network under LLaDA's names."""
    net: Any = tiny_network(0)
    config = net.config
    original = {
        "model_type": "llada", "architectures": ["LLaDAModelLM"], "d_model": config.hidden_size,
        "n_layers": config.num_hidden_layers, "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads, "mlp_hidden_size": config.intermediate_size,
        "vocab_size": VOCABULARY, "embedding_size": VOCABULARY, "max_sequence_length": config.max_position_embeddings,
        "rope_theta": config.rope_parameters["rope_theta"], "rms_norm_eps": config.rms_norm_eps, "mask_token_id": MASK,
        "eos_token_id": STOP, "pad_token_id": STOP, "weight_tying": False, "block_type": "llama",
        "layer_norm_type": "rms", "activation_type": "silu", "rope": True, "alibi": False, "include_bias": False,
        "include_qkv_bias": False,
    }  # fmt: skip
    state, weights = net.state_dict(), {}
    for disk, stock in NAMES:
        for layer in range(config.num_hidden_layers) if "{i}" in disk else (0,):
            weights[f"{disk.format(i=layer)}.weight"] = state[f"{stock.format(i=layer)}.weight"].clone()
    folder = FIXTURE / "checkpoints" / NAME
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(original, indent=1) + "\n")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def record(prompt: list[int], rule: dict[str, Any], cache: str, length: int, block: int) -> tuple[list[int], int]:
    """Tokens and forwards of one run."""
    ids = torch.tensor([prompt])
    out, nfe = decode_as_published(tiny_network(0), ids, length, block, MASK, cache, rule["threshold"], rule["factor"])
    return out[0].tolist(), nfe


def cases() -> Iterator[dict[str, Any]]:
    """Every case that rounding does not change."""
    draw = torch.Generator().manual_seed(0)
    head = tiny_network(0).get_output_embeddings().weight  # type: ignore[operator]
    for number, (cache, rule, block) in enumerate(product(("none", "prefix", "dual"), RULES, (8, 16))):
        for row, columns in enumerate((5, 11)):
            prompt = torch.randint(MASK - 1, (columns,), generator=draw).tolist()
            found = record(prompt, rule, cache, 32, block)
            nudged = []
            for factor in NUDGES:
                with torch.no_grad():
                    kept = head.clone()
                    head.mul_(factor)
                    nudged.append(record(prompt, rule, cache, 32, block))
                    head.copy_(kept)
            if any(other != found for other in nudged):
                continue
            yield {
                "id": f"fixture-{number:02}-{row}", "checkpoint": NAME, "cache": cache, **rule, "steps": None,
                "gen_length": 32, "block_length": block, "mask_id": MASK, "batch_size": 1, "prompt": [prompt],
                "output": [found[0]], "nfe": found[1],
            }  # fmt: skip


def main() -> None:
    torch.set_num_threads(1)
    save_checkpoint()
    lines = ",\n".join(json.dumps(case) for case in cases())
    (FIXTURE / "llada_cases.json").write_text(f'{{"cases": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
