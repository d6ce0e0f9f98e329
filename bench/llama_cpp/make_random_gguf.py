#!/usr/bin/env python3
"""Writes a GGUF file of Qwen3-0.6B's shape with random Q4_0 weights.

    bench/llama_cpp/make_random_gguf.py FILE [--head q4_0|q6_k]

The counterpart of `scripts/make-random-model qwen3-0.6b`: the same matrices, 4.5 bits a
weight in both. llama.cpp's own converter keeps the embedding, which is the head too, at
6 bits (`--head q6_k`); the comparison uses q4_0, so that both read the same bytes.

Format: ggml/docs/gguf.md of llama.cpp. Blocks: Q4_0 is a half scale and 32 nibbles,
Q6_K a superblock of 256 (128 + 64 bytes of codes, 16 int8 scales, a half).
"""
import argparse
import random
import struct

LAYERS, HIDDEN, HEADS, KV_HEADS, HEAD_DIM = 28, 1024, 16, 8, 128
INTERMEDIATE, VOCABULARY = 3072, 151936
F32, Q4_0, Q6_K = 0, 2, 14  # ggml_type
UINT32, FLOAT32, STRING = 4, 6, 8  # gguf value types
ALIGNMENT = 32
# Values are scale (code - 8) or scale scale6 (code - 32); either way deviate by 0.02.
Q4_0_SCALE = 0.02 / ((16**2 - 1) / 12)**0.5
Q6_K_SCALE = 0.02 / (((64**2 - 1) / 12)**0.5 * 32)


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def metadata():
    pairs = [
        ("general.architecture", STRING, "qwen3"),
        ("general.name", STRING, "random weights"),
        ("general.file_type", UINT32, 2),
        ("qwen3.context_length", UINT32, 40960),
        ("qwen3.embedding_length", UINT32, HIDDEN),
        ("qwen3.block_count", UINT32, LAYERS),
        ("qwen3.feed_forward_length", UINT32, INTERMEDIATE),
        ("qwen3.attention.head_count", UINT32, HEADS),
        ("qwen3.attention.head_count_kv", UINT32, KV_HEADS),
        ("qwen3.attention.key_length", UINT32, HEAD_DIM),
        ("qwen3.attention.value_length", UINT32, HEAD_DIM),
        ("qwen3.attention.layer_norm_rms_epsilon", FLOAT32, 1e-6),
        ("qwen3.rope.freq_base", FLOAT32, 1e6),
        ("qwen3.vocab_size", UINT32, VOCABULARY),
        ("tokenizer.ggml.model", STRING, "none"),
    ]
    packed = b""
    for key, kind, value in pairs:
        packed += text(key) + struct.pack("<I", kind)
        packed += text(value) if kind == STRING else struct.pack(
            "<I" if kind == UINT32 else "<f", value)
    return len(pairs), packed


def tensors(head):
    """(name, type, rows, columns), rows 0 for a vector."""
    yield "token_embd.weight", head, VOCABULARY, HIDDEN
    for layer in range(LAYERS):
        name = f"blk.{layer}."
        yield name + "attn_norm.weight", F32, 0, HIDDEN
        yield name + "attn_q.weight", Q4_0, HEADS * HEAD_DIM, HIDDEN
        yield name + "attn_k.weight", Q4_0, KV_HEADS * HEAD_DIM, HIDDEN
        yield name + "attn_v.weight", Q4_0, KV_HEADS * HEAD_DIM, HIDDEN
        yield name + "attn_output.weight", Q4_0, HIDDEN, HEADS * HEAD_DIM
        yield name + "attn_q_norm.weight", F32, 0, HEAD_DIM
        yield name + "attn_k_norm.weight", F32, 0, HEAD_DIM
        yield name + "ffn_norm.weight", F32, 0, HIDDEN
        yield name + "ffn_gate.weight", Q4_0, INTERMEDIATE, HIDDEN
        yield name + "ffn_up.weight", Q4_0, INTERMEDIATE, HIDDEN
        yield name + "ffn_down.weight", Q4_0, HIDDEN, INTERMEDIATE
    yield "output_norm.weight", F32, 0, HIDDEN


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
    parser.add_argument("file")
    parser.add_argument("--head", choices=("q4_0", "q6_k"), default="q4_0")
    arguments = parser.parse_args()
    bytes_per_value = {F32: 4, Q4_0: 18 / 32, Q6_K: 210 / 256}

    listed = list(tensors(Q4_0 if arguments.head == "q4_0" else Q6_K))
    infos, offset = b"", 0
    for name, kind, rows, columns in listed:
        shape = [columns, rows] if rows else [columns]  # ggml: fastest first
        infos += text(name) + struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos += struct.pack("<IQ", kind, offset)
        offset += int(columns * max(rows, 1) * bytes_per_value[kind])
        offset += -offset % ALIGNMENT
    n_pairs, pairs = metadata()
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
