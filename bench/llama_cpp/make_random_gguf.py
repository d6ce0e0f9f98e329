#!/usr/bin/env python3
"""Writes a GGUF file of a real shape with random Q4_0 or Q8_0 weights.

    bench/llama_cpp/make_random_gguf.py SHAPE FILE [--bits 4|8] [--head same|q6_k]
        [--tokenizer JSON]

The counterpart of `scripts/make-random-model SHAPE`: the same matrices, 4.5 or 8.5 bits
a weight in both. llama.cpp's own converter keeps the embedding, which is the head too, at
6 bits (`--head q6_k`); the comparison uses the width of the rest, so that both read the
same bytes. A server needs words: those of a tokenizer.json with byte-level BPE, the rest
made up.

Format: ggml/docs/gguf.md of llama.cpp. Blocks: Q4_0 is a half scale and 32 nibbles,
Q8_0 a half scale and 32 bytes, Q6_K a superblock of 256 (128 + 64 bytes of codes, 16 int8
scales, a half).
"""
import argparse
import json
import random
import struct

SHAPES = {
    "qwen3-0.6b": dict(
        architecture="qwen3", layers=28, hidden=1024, heads=16, kv_heads=8, head_dim=128,
        intermediate=3072, vocabulary=151936, eps=1e-6, rope_theta=1e6, qk_norm=True),
    "llama-3.2-1b": dict(
        architecture="llama", layers=16, hidden=2048, heads=32, kv_heads=8, head_dim=64,
        intermediate=8192, vocabulary=128256, eps=1e-5, rope_theta=5e5, qk_norm=False),
    "qwen3.5-0.8b": dict(
        architecture="qwen35", layers=24, hidden=1024, heads=8, kv_heads=2, head_dim=256,
        intermediate=3584, vocabulary=248320, eps=1e-6, rope_theta=1e7, qk_norm=True,
        rotated=64, rope_sections=[11, 11, 10, 0], full_attention_interval=4,
        linear=dict(key_heads=16, value_heads=16, state=128, taps=4)),
    "qwen3-moe-2b": dict(
        architecture="qwen3moe", layers=16, hidden=1024, heads=16, kv_heads=4,
        head_dim=128, intermediate=3072, vocabulary=151936, eps=1e-6, rope_theta=1e6,
        qk_norm=True, experts=64, experts_used=8, expert_intermediate=512),
}
F32, Q4_0, Q8_0, Q6_K = 0, 2, 8, 14  # ggml_type
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9  # gguf value types
NORMAL, CONTROL, UNUSED = 1, 3, 5  # kinds of tokens
ALIGNMENT = 32
# Values are scale (code - 8) or scale scale6 (code - 32); either way deviate by 0.02.
Q4_0_SCALE = 0.02 / ((16**2 - 1) / 12)**0.5
Q8_0_SCALE = 0.02 / ((256**2 - 1) / 12)**0.5
Q6_K_SCALE = 0.02 / (((64**2 - 1) / 12)**0.5 * 32)


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


def more_metadata(shape):
    """What mixtures and hybrids have besides."""
    pairs = []
    if "experts" in shape:
        pairs += [("expert_count", UINT32, shape["experts"]),
                  ("expert_used_count", UINT32, shape["experts_used"]),
                  ("expert_feed_forward_length", UINT32, shape["expert_intermediate"])]
    if "linear" in shape:
        linear = shape["linear"]
        pairs += [("full_attention_interval", UINT32, shape["full_attention_interval"]),
                  ("ssm.conv_kernel", UINT32, linear["taps"]),
                  ("ssm.inner_size", UINT32, linear["value_heads"] * linear["state"]),
                  ("ssm.state_size", UINT32, linear["state"]),
                  ("ssm.time_step_rank", UINT32, linear["value_heads"]),
                  ("ssm.group_count", UINT32, linear["key_heads"]),
                  ("rope.dimension_sections", ARRAY, shape["rope_sections"])]
    return pairs


def pack(kind, value):
    if kind == STRING:
        return text(value)
    if kind == ARRAY:
        return struct.pack(f"<IQ{len(value)}i", INT32, len(value), *value)
    return struct.pack("<I" if kind == UINT32 else "<f", value)


def metadata(shape):
    architecture = shape["architecture"]
    pairs = [
        ("general.architecture", STRING, architecture),
        ("general.name", STRING, "random weights"),
        ("general.file_type", UINT32, 2),
    ] + [(f"{architecture}.{key}", kind, value) for key, kind, value in [
        ("context_length", UINT32, 131072),
        ("embedding_length", UINT32, shape["hidden"]),
        ("block_count", UINT32, shape["layers"]),
        ("feed_forward_length", UINT32, shape["intermediate"]),
        ("attention.head_count", UINT32, shape["heads"]),
        ("attention.head_count_kv", UINT32, shape["kv_heads"]),
        ("attention.key_length", UINT32, shape["head_dim"]),
        ("attention.value_length", UINT32, shape["head_dim"]),
        ("attention.layer_norm_rms_epsilon", FLOAT32, shape["eps"]),
        ("rope.freq_base", FLOAT32, shape["rope_theta"]),
        ("rope.dimension_count", UINT32, shape.get("rotated", shape["head_dim"])),
        ("vocab_size", UINT32, shape["vocabulary"]),
    ] + more_metadata(shape)]
    packed = b""
    for key, kind, value in pairs:
        packed += text(key) + struct.pack("<I", kind) + pack(kind, value)
    return len(pairs), packed


def words(file, vocabulary):
    """The metadata of a tokenizer; without a file, that there is none."""
    if not file:
        return 1, text("tokenizer.ggml.model") + struct.pack("<I", STRING) + text("none")
    with open(file, encoding="utf-8") as opened:
        tokenizer = json.load(opened)
    tokens = [f"[unused {i}]" for i in range(vocabulary)]
    kinds = [UNUSED] * vocabulary
    for token, i in tokenizer["model"]["vocab"].items():
        tokens[i], kinds[i] = token, NORMAL
    for added in tokenizer["added_tokens"]:
        tokens[added["id"]], kinds[added["id"]] = added["content"], CONTROL
    merges = [merge if isinstance(merge, str) else " ".join(merge)
              for merge in tokenizer["model"]["merges"]]

    def array(name, kind, items):
        return text(name) + struct.pack("<IIQ", ARRAY, kind, len(items)) + b"".join(
            text(item) if kind == STRING else struct.pack("<i", item) for item in items)

    packed = array("tokenizer.ggml.tokens", STRING, tokens)
    packed += array("tokenizer.ggml.token_type", INT32, kinds)
    packed += array("tokenizer.ggml.merges", STRING, merges)
    for key, value in (("model", "gpt2"), ("pre", "qwen2")):
        packed += text(f"tokenizer.ggml.{key}") + struct.pack("<I", STRING) + text(value)
    end = max(added["id"] for added in tokenizer["added_tokens"])
    packed += text("tokenizer.ggml.eos_token_id") + struct.pack("<II", UINT32, end)
    return 6, packed


def tensors(shape, weights, head):
    """(name, type, rows, columns, experts), rows and experts 0 where there are none."""
    hidden, intermediate = shape["hidden"], shape["intermediate"]
    yield "token_embd.weight", head, shape["vocabulary"], hidden, 0
    for layer in range(shape["layers"]):
        name = f"blk.{layer}."

        def matrix(part, rows, columns, experts=0):
            return f"{name}{part}.weight", weights, rows, columns, experts

        def vector(part, n):
            return f"{name}{part}", F32, 0, n, 0

        yield vector("attn_norm.weight", hidden)
        if "linear" in shape and (layer + 1) % shape["full_attention_interval"]:
            linear = shape["linear"]
            values = linear["value_heads"] * linear["state"]
            channels = values + 2 * linear["key_heads"] * linear["state"]
            yield matrix("attn_qkv", channels, hidden)
            yield matrix("attn_gate", values, hidden)
            yield f"{name}ssm_conv1d.weight", F32, channels, linear["taps"], 0
            yield vector("ssm_dt.bias", linear["value_heads"])
            yield vector("ssm_a", linear["value_heads"])
            yield matrix("ssm_beta", linear["value_heads"], hidden)
            yield matrix("ssm_alpha", linear["value_heads"], hidden)
            yield vector("ssm_norm.weight", linear["state"])
            yield matrix("ssm_out", hidden, values)
        else:
            q_rows = shape["heads"] * shape["head_dim"]
            kv_rows = shape["kv_heads"] * shape["head_dim"]
            yield matrix("attn_q", q_rows * (2 if "linear" in shape else 1), hidden)
            yield matrix("attn_k", kv_rows, hidden)
            yield matrix("attn_v", kv_rows, hidden)
            yield matrix("attn_output", hidden, q_rows)
            if shape["qk_norm"]:
                yield vector("attn_q_norm.weight", shape["head_dim"])
                yield vector("attn_k_norm.weight", shape["head_dim"])
        yield vector("post_attention_norm.weight" if "linear" in shape
                     else "ffn_norm.weight", hidden)
        experts, kind = shape.get("experts", 0), ""
        if experts:
            yield f"{name}ffn_gate_inp.weight", F32, experts, hidden, 0
            intermediate, kind = shape["expert_intermediate"], "_exps"
        yield matrix(f"ffn_gate{kind}", intermediate, hidden, experts)
        yield matrix(f"ffn_up{kind}", intermediate, hidden, experts)
        yield matrix(f"ffn_down{kind}", hidden, intermediate, experts)
    yield "output_norm.weight", F32, 0, hidden, 0


def row(kind, columns, generator, value=1.0):
    """One row of a tensor; floats are all `value`."""
    if kind == F32:
        return struct.pack("<f", value) * columns
    n = columns // 32
    if kind in (Q4_0, Q8_0):
        size = 16 if kind == Q4_0 else 32
        scale = struct.pack("<e", Q4_0_SCALE if kind == Q4_0 else Q8_0_SCALE)
        codes = generator.randbytes(size * n)
        return b"".join(scale + codes[size * i:size * (i + 1)] for i in range(n))
    scales = bytes([32] * 16) + struct.pack("<e", Q6_K_SCALE)
    n = columns // 256
    codes = generator.randbytes(192 * n)
    return b"".join(codes[192 * i:192 * i + 192] + scales for i in range(n))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file")
    parser.add_argument("--bits", type=int, choices=(4, 8), default=4)
    parser.add_argument("--head", choices=("same", "q6_k"), default="same")
    parser.add_argument("--tokenizer")
    arguments = parser.parse_args()
    bytes_per_value = {F32: 4, Q4_0: 18 / 32, Q8_0: 34 / 32, Q6_K: 210 / 256}

    shape = SHAPES[arguments.shape]
    weights = Q4_0 if arguments.bits == 4 else Q8_0
    listed = list(tensors(shape, weights, weights if arguments.head == "same" else Q6_K))
    infos, offset = b"", 0
    for name, kind, rows, columns, experts in listed:
        sizes = [n for n in (columns, rows, experts) if n]  # ggml: fastest first
        infos += text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        infos += struct.pack("<IQ", kind, offset)
        offset += int(columns * max(rows, 1) * max(experts, 1) * bytes_per_value[kind])
        offset += -offset % ALIGNMENT
    n_pairs, pairs = metadata(shape)
    n_words, packed = words(arguments.tokenizer, shape["vocabulary"])
    n_pairs, pairs = n_pairs + n_words, pairs + packed
    header = b"GGUF" + struct.pack("<IQQ", 3, len(listed), n_pairs) + pairs + infos

    generator = random.Random(1)
    # The rows of a matrix repeat 64 random ones: as fast to read, faster to write.
    blocks = {}
    with open(arguments.file, "wb") as file:
        file.write(header + bytes(-len(header) % ALIGNMENT))
        for name, kind, rows, columns, experts in listed:
            # The decay of a hybrid's state is negative.
            value = -1.0 if name.endswith("ssm_a") else 1.0
            if (kind, columns, value) not in blocks:
                blocks[kind, columns, value] = [row(kind, columns, generator, value)
                                                for _ in range(64 if rows else 1)]
            some = blocks[kind, columns, value]
            for i in range(max(rows, 1) * max(experts, 1)):
                file.write(some[i % len(some)])
            file.write(bytes(-file.tell() % ALIGNMENT))


if __name__ == "__main__":
    main()
