#!/usr/bin/env python3
"""Writes a GGUF file of a real shape with random Q4_0 weights.

    bench/llama_cpp/make_random_gguf.py SHAPE FILE [--head q4_0|q6_k] [--tokenizer JSON]

The counterpart of `scripts/make-random-model SHAPE`: the same matrices, 4.5 bits a
weight in both. llama.cpp's own converter keeps the embedding, which is the head too, at
6 bits (`--head q6_k`); the comparison uses q4_0, so that both read the same bytes. A
server needs words: those of a tokenizer.json with byte-level BPE, the rest made up.

Format: ggml/docs/gguf.md of llama.cpp. Blocks: Q4_0 is a half scale and 32 nibbles,
Q6_K a superblock of 256 (128 + 64 bytes of codes, 16 int8 scales, a half).
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
}
F32, Q4_0, Q6_K = 0, 2, 14  # ggml_type
UINT32, INT32, FLOAT32, STRING, ARRAY = 4, 5, 6, 8, 9  # gguf value types
NORMAL, CONTROL, UNUSED = 1, 3, 5  # kinds of tokens
ALIGNMENT = 32
# Values are scale (code - 8) or scale scale6 (code - 32); either way deviate by 0.02.
Q4_0_SCALE = 0.02 / ((16**2 - 1) / 12)**0.5
Q6_K_SCALE = 0.02 / (((64**2 - 1) / 12)**0.5 * 32)


def text(value):
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded


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
        ("rope.dimension_count", UINT32, shape["head_dim"]),
        ("vocab_size", UINT32, shape["vocabulary"]),
    ]]
    packed = b""
    for key, kind, value in pairs:
        packed += text(key) + struct.pack("<I", kind)
        packed += text(value) if kind == STRING else struct.pack(
            "<I" if kind == UINT32 else "<f", value)
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


def tensors(shape, head):
    """(name, type, rows, columns), rows 0 for a vector."""
    hidden, intermediate = shape["hidden"], shape["intermediate"]
    q_rows = shape["heads"] * shape["head_dim"]
    kv_rows = shape["kv_heads"] * shape["head_dim"]
    yield "token_embd.weight", head, shape["vocabulary"], hidden
    for layer in range(shape["layers"]):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", F32, 0, hidden
        yield name + "attn_q.weight", Q4_0, q_rows, hidden
        yield name + "attn_k.weight", Q4_0, kv_rows, hidden
        yield name + "attn_v.weight", Q4_0, kv_rows, hidden
        yield name + "attn_output.weight", Q4_0, hidden, q_rows
        if shape["qk_norm"]:
            yield name + "attn_q_norm.weight", F32, 0, shape["head_dim"]
            yield name + "attn_k_norm.weight", F32, 0, shape["head_dim"]
        yield name + "ffn_norm.weight", F32, 0, hidden
        yield name + "ffn_gate.weight", Q4_0, intermediate, hidden
        yield name + "ffn_up.weight", Q4_0, intermediate, hidden
        yield name + "ffn_down.weight", Q4_0, hidden, intermediate
    yield "output_norm.weight", F32, 0, hidden


def row(kind, columns, generator):
    """One row of a tensor."""
    if kind == F32:
        return struct.pack("<f", 1.0) * columns
    if kind == Q4_0:
        scale, n = struct.pack("<e", Q4_0_SCALE), columns // 32
        codes = generator.randbytes(16 * n)
        return b"".join(scale + codes[16 * i:16 * i + 16] for i in range(n))
    scales = bytes([32] * 16) + struct.pack("<e", Q6_K_SCALE)
    n = columns // 256
    codes = generator.randbytes(192 * n)
    return b"".join(codes[192 * i:192 * i + 192] + scales for i in range(n))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("file")
    parser.add_argument("--head", choices=("q4_0", "q6_k"), default="q4_0")
    parser.add_argument("--tokenizer")
    arguments = parser.parse_args()
    bytes_per_value = {F32: 4, Q4_0: 18 / 32, Q6_K: 210 / 256}

    shape = SHAPES[arguments.shape]
    listed = list(tensors(shape, Q4_0 if arguments.head == "q4_0" else Q6_K))
    infos, offset = b"", 0
    for name, kind, rows, columns in listed:
        sizes = [columns, rows] if rows else [columns]  # ggml: fastest first
        infos += text(name) + struct.pack(f"<I{len(sizes)}Q", len(sizes), *sizes)
        infos += struct.pack("<IQ", kind, offset)
        offset += int(columns * max(rows, 1) * bytes_per_value[kind])
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
        for _, kind, rows, columns in listed:
            if (kind, columns) not in blocks:
                blocks[kind, columns] = [row(kind, columns, generator)
                                         for _ in range(64 if rows else 1)]
            some = blocks[kind, columns]
            for i in range(max(rows, 1)):
                file.write(some[i % len(some)])
            file.write(bytes(-file.tell() % ALIGNMENT))


if __name__ == "__main__":
    main()
