#!/usr/bin/env python3
"""Carries a small Qwen3 model to GGUF and its quantized weights back, in float.

    gguf_weights.py write MODEL OUT.gguf            float32, without a tokenizer
    gguf_weights.py importance MODEL JSONL OUT.txt  mean squares of each matrix's inputs
    gguf_weights.py read IN.gguf MODEL OUT_DIR      values of its weights as a checkpoint

Needs stock mlx-lm and gguf (scripts/setup-peers). Names: gguf's own table.
"""
import json
import pathlib
import re
import shutil
import sys

import gguf
import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx_lm import load

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down",
}


def gguf_name(name):
    if name in NAMES:
        return NAMES[name]
    layer, part, end = re.fullmatch(r"model\.layers\.(\d+)\.(.*)\.(\w+)", name).groups()
    return f"blk.{layer}.{NAMES[part]}.{end}"


def tensors(model):
    """(name, float32 values) of a directory's tensors."""
    for file in sorted(pathlib.Path(model).glob("model*.safetensors")):
        for name, value in mx.load(str(file)).items():
            yield name, np.array(value.astype(mx.float32))


def write(model, out):
    config = json.loads((pathlib.Path(model) / "config.json").read_text())
    if config["model_type"] != "qwen3":
        sys.exit(f"gguf_weights: error: expected a qwen3 model, found {config['model_type']}")
    writer = gguf.GGUFWriter(out, "qwen3")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_key_length(config["head_dim"])
    writer.add_value_length(config["head_dim"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config.get("rope_theta", 10000.0))
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("none")
    for name, value in tensors(model):
        writer.add_tensor(gguf_name(name), value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Observed(nn.Module):
    """A linear layer that adds up the squares of its inputs."""

    def __init__(self, inner):
        super().__init__()
        self.inner, self.sums, self.rows = inner, 0, 0

    def __call__(self, x):
        flat = x.reshape(-1, x.shape[-1]).astype(mx.float32)
        self.sums = self.sums + mx.square(flat).sum(0)
        self.rows += flat.shape[0]
        mx.eval(self.sums)
        return self.inner(x)


def importance(model, jsonl, out):
    loaded, tokenizer = load(model)
    observed = {}
    for name, module in loaded.named_modules():
        if isinstance(module, nn.Linear):
            observed[name] = Observed(module)
    loaded.update_modules(mlx_unflatten(observed))
    for line in pathlib.Path(jsonl).read_text().splitlines():
        sample = json.loads(line)
        text = sample.get("text") or tokenizer.apply_chat_template(
            sample["messages"], tools=sample.get("tools"), tokenize=False)
        ids = tokenizer.encode(text)
        for begin in range(0, len(ids), 512):
            mx.eval(loaded(mx.array([ids[begin:begin + 512]])))
    with open(out, "w", encoding="utf-8") as file:
        for name, module in observed.items():
            values = (module.sums / module.rows).tolist()
            file.write(f"{gguf_name(name + '.weight')} {len(values)} "
                       + " ".join(f"{value:.6g}" for value in values) + "\n")


def mlx_unflatten(modules):
    from mlx.utils import tree_unflatten
    return tree_unflatten(list(modules.items()))


def read(file, model, out):
    values = {tensor.name: gguf.quants.dequantize(tensor.data, tensor.tensor_type)
              for tensor in gguf.GGUFReader(file).tensors}
    back = {name: mx.array(values[gguf_name(name)].reshape(old.shape))
            for name, old in tensors(model)}
    out = pathlib.Path(out)
    shutil.copytree(model, out, ignore=shutil.ignore_patterns("*.safetensors*", "optiq"))
    mx.save_safetensors(str(out / "model.safetensors"), back, {"format": "pt"})


if __name__ == "__main__":
    {"write": write, "importance": importance, "read": read}[sys.argv[1]](*sys.argv[2:])
