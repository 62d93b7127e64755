"""What these models compute, from their papers' formulas, in bare torch on one row of tokens."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, silu

Weights = dict[str, Tensor]


def linear(x: Tensor, w: Weights, name: str) -> Tensor:
    y = x @ w[name + ".weight"].T
    return y + w[name + ".bias"] if name + ".bias" in w else y


def rms(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * w[name + ".weight"]


def norm(x: Tensor, w: Weights, name: str, eps: float) -> Tensor:
    return layer_norm(x, x.shape[-1:], w[name + ".weight"], w.get(name + ".bias"), eps)


def rotate(x: Tensor, theta: float, share: float = 1.0) -> Tensor:
    """Turn the first `share` of each head's dimensions (h, t, d), paired across halves, by their position."""
    t, size = x.shape[1], int(x.shape[2] * share)
    angle = torch.arange(t)[:, None] * theta ** (-torch.arange(0, size, 2) / size)
    a, b = x[..., :size].chunk(2, -1)
    turned = [a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()]
    return torch.cat([*turned, x[..., size:]], -1)


def heads(x: Tensor, count: int) -> Tensor:
    return x.view(len(x), count, -1).transpose(0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
    """Outputs (t, h d) of heads (h, t, d), each group of queries sharing a key head."""
    k, v = (x.repeat_interleave(len(q) // len(x), 0) for x in (k, v))
    scores = (q @ k.transpose(1, 2) / math.sqrt(q.shape[-1])).masked_fill(~seen, -torch.inf)
    return (scores.softmax(-1) @ v).transpose(0, 1).flatten(1)


def gated(x: Tensor, w: Weights, at: str) -> Tensor:
    return linear(silu(linear(x, w, f"{at}.gate_proj")) * linear(x, w, f"{at}.up_proj"), w, f"{at}.down_proj")


def mixed(x: Tensor, w: Weights, at: str, chances: list[dict[int, float]]) -> Tensor:
    """Each token's sum over its experts, one token at a time."""
    rows = [
        sum(weight * gated(token, w, f"{at}.experts.{i}") for i, weight in each.items())
        for token, each in zip(x, chances, strict=True)
    ]
    return torch.stack(rows)  # type: ignore[arg-type]


def softmax_routing(x: Tensor, w: Weights, at: str, count: int) -> list[dict[int, float]]:
    """The likeliest experts of a softmax over all, with their probabilities as they are."""
    chances = linear(x, w, f"{at}.gate").softmax(-1)
    return [{i: float(row[i]) for i in row.argsort(descending=True)[:count].tolist()} for row in chances]


def grouped_routing(x: Tensor, w: Weights, at: str, config: dict[str, Any]) -> list[dict[int, float]]:
    """Sigmoid scores; a bias that only chooses; groups ranked by their two best; weights normalised and scaled."""
    scores = linear(x, w, f"{at}.gate").sigmoid()
    size, out = scores.shape[1] // config["n_group"], []
    for row, biased in zip(scores, scores + w[f"{at}.gate.expert_bias"], strict=True):
        ranked = sorted(range(config["n_group"]), key=lambda g: -biased[g * size : (g + 1) * size].topk(2).values.sum())
        open_to = [g * size + j for g in ranked[: config["topk_group"]] for j in range(size)]
        chosen = sorted(open_to, key=lambda i: -biased[i])[: config["num_experts_per_tok"]]
        total = sum(float(row[i]) for i in chosen) if len(chosen) > 1 else 1.0
        out.append({i: float(row[i]) / total * config["routed_scaling_factor"] for i in chosen})
    return out


def llada_moe(config: dict[str, Any], w: Weights, tokens: Tensor, seen: Tensor) -> Tensor:
    eps, theta, count = config["rms_norm_eps"], config["rope_theta"], config["num_attention_heads"]
    x = w["model.embed_tokens.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        y = rms(x, w, f"{at}.input_layernorm", eps)
        q = heads(linear(y, w, f"{at}.self_attn.q_proj"), count)
        k, v = (heads(linear(y, w, f"{at}.self_attn.{p}_proj"), config["num_key_value_heads"]) for p in "kv")
        q, k = rms(q, w, f"{at}.self_attn.q_norm", eps), rms(k, w, f"{at}.self_attn.k_norm", eps)
        x = x + linear(attend(rotate(q, theta), rotate(k, theta), v, seen), w, f"{at}.self_attn.o_proj")
        y = rms(x, w, f"{at}.post_attention_layernorm", eps)
        if config["moe_layer_freq"][i]:
            x = x + mixed(y, w, f"{at}.mlp", softmax_routing(y, w, f"{at}.mlp", config["num_experts_per_tok"]))
        else:
            x = x + gated(y, w, f"{at}.mlp")
    return linear(rms(x, w, "model.norm", eps), w, "lm_head")


def llada2(config: dict[str, Any], w: Weights, tokens: Tensor, seen: Tensor) -> Tensor:
    eps, theta, share = config["rms_norm_eps"], config["rope_theta"], config["partial_rotary_factor"]
    groups = config["num_key_value_heads"]
    x = w["model.word_embeddings.weight"][tokens]
    for i in range(config["num_hidden_layers"]):
        at = f"model.layers.{i}"
        y = rms(x, w, f"{at}.input_layernorm", eps)
        fused = heads(linear(y, w, f"{at}.attention.query_key_value"), config["num_attention_heads"] + 2 * groups)
        q, k, v = fused[: -2 * groups], fused[-2 * groups : -groups], fused[-groups:]
        q = rotate(rms(q, w, f"{at}.attention.query_layernorm", eps), theta, share)
        k = rotate(rms(k, w, f"{at}.attention.key_layernorm", eps), theta, share)
        x = x + linear(attend(q, k, v, seen), w, f"{at}.attention.dense")
        y = rms(x, w, f"{at}.post_attention_layernorm", eps)
        if i < config["first_k_dense_replace"]:
            x = x + gated(y, w, f"{at}.mlp")
        else:
            chosen = grouped_routing(y, w, f"{at}.mlp", config)
            x = x + mixed(y, w, f"{at}.mlp", chosen) + gated(y, w, f"{at}.mlp.shared_experts")
    return linear(rms(x, w, "model.norm", eps), w, "lm_head")


def bert(config: dict[str, Any], w: Weights, tokens: Tensor, seen: Tensor, at: str = "bert", first: int = 0) -> Tensor:
    """Hidden states of BERT and RoBERTa: normalised after each sum, absolute positions from `first` on."""
    eps, t, count = config["layer_norm_eps"], len(tokens), config["num_attention_heads"]
    embed = f"{at}.embeddings"
    x = w[f"{embed}.word_embeddings.weight"][tokens] + w[f"{embed}.token_type_embeddings.weight"][0]
    x = norm(x + w[f"{embed}.position_embeddings.weight"][first : first + t], w, f"{embed}.LayerNorm", eps)
    for i in range(config["num_hidden_layers"]):
        layer = f"{at}.encoder.layer.{i}"
        q, k, v = (heads(linear(x, w, f"{layer}.attention.self.{p}"), count) for p in ("query", "key", "value"))
        y = linear(attend(q, k, v, seen), w, f"{layer}.attention.output.dense")
        x = norm(x + y, w, f"{layer}.attention.output.LayerNorm", eps)
        y = linear(gelu(linear(x, w, f"{layer}.intermediate.dense")), w, f"{layer}.output.dense")
        x = norm(x + y, w, f"{layer}.output.LayerNorm", eps)
    return x


def bert_logits(config: dict[str, Any], w: Weights, tokens: Tensor, seen: Tensor) -> Tensor:
    head = "cls.predictions.transform"
    x = gelu(linear(bert(config, w, tokens, seen), w, f"{head}.dense"))
    x = norm(x, w, f"{head}.LayerNorm", config["layer_norm_eps"])
    return x @ w["bert.embeddings.word_embeddings.weight"].T + w["cls.predictions.bias"]


def roberta_logits(config: dict[str, Any], w: Weights, tokens: Tensor, seen: Tensor) -> Tensor:
    x = bert(config, w, tokens, seen, "roberta", first=config["pad_token_id"] + 1)
    x = norm(gelu(linear(x, w, "lm_head.dense")), w, "lm_head.layer_norm", config["layer_norm_eps"])
    return x @ w["roberta.embeddings.word_embeddings.weight"].T + w["lm_head.bias"]


def modernbert(config: dict[str, Any], w: Weights, tokens: Tensor, seen: Tensor) -> Tensor:
    """Normalised before each part but the first; every third layer sees all, the others half a window each way."""
    eps, embedding = config["norm_eps"], w["model.embeddings.tok_embeddings.weight"]
    place = torch.arange(len(tokens))
    near = (place[:, None] - place).abs() <= config["local_attention"] // 2
    x = norm(embedding[tokens], w, "model.embeddings.norm", eps)
    for i in range(config["num_hidden_layers"]):
        at, whole = f"model.layers.{i}", i % config["global_attn_every_n_layers"] == 0
        theta = config["global_rope_theta" if whole else "local_rope_theta"]
        y = norm(x, w, f"{at}.attn_norm", eps) if i else x
        q, k, v = (heads(part, config["num_attention_heads"]) for part in linear(y, w, f"{at}.attn.Wqkv").chunk(3, -1))
        y = attend(rotate(q, theta), rotate(k, theta), v, seen if whole else seen & near)
        x = x + linear(y, w, f"{at}.attn.Wo")
        inner, gate = linear(norm(x, w, f"{at}.mlp_norm", eps), w, f"{at}.mlp.Wi").chunk(2, -1)
        x = x + linear(gelu(inner) * gate, w, f"{at}.mlp.Wo")
    x = norm(gelu(linear(norm(x, w, "model.final_norm", eps), w, "head.dense")), w, "head.norm", eps)
    return x @ embedding.T + w["decoder.bias"]


PLAIN = {
    "llada_moe": llada_moe,
    "llada2": llada2,
    "bert": bert_logits,
    "roberta": roberta_logits,
    "modernbert": modernbert,
}
