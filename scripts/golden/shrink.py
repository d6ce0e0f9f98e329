#!/usr/bin/env python3
"""Copies golden fixtures into tests/data/golden, cut to what tests/golden_test.cpp reads.

A fixture is a tiny model (or an adapter, whose config names its model) and `golden.safetensors` beside it, with per prompt the tensors
`<prompt>.input_ids`, `.logits` (float32, from position `.logits_start`, else from 0) and
`.greedy` or `.greedy_ids`. Kept are the model's weights and configs, the ids, and the
logits of the last --rows positions.

    scripts/golden/shrink.py FIXTURES tests/data/golden [NAME ...]

NAME is a path below FIXTURES, such as qwen3 or mlx_quant/qwen3-mixed; all of them by
default. The parts of the copy are joined by '-' in its name.
"""
import argparse
import json
import pathlib
import shutil
import struct

KEPT = ("config.json", "generation_config.json", "model.safetensors",
        "model.safetensors.index.json", "adapter_config.json", "adapters.safetensors",
        "adapter_model.safetensors")


def read_safetensors(path):
    data = path.read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8:8 + size])
    header.pop("__metadata__", None)
    base = 8 + size
    return {name: (t["dtype"], t["shape"],
                   data[base + t["data_offsets"][0]:base + t["data_offsets"][1]])
            for name, t in header.items()}


def write_safetensors(path, tensors):
    header, at = {}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    path.write_bytes(struct.pack("<Q", len(text)) + text +
                     b"".join(data for _, _, data in tensors.values()))


def shrunk(tensors, rows, longest):
    out = {}
    for prompt in sorted({name.split(".")[0] for name in tensors}):
        dtype, (n, vocab), data = tensors[f"{prompt}.logits"]
        ids = tensors[f"{prompt}.input_ids"]
        if ids[1][0] > longest:
            continue
        start = tensors.get(f"{prompt}.logits_start")
        start = struct.unpack("<i", start[2])[0] if start else 0
        kept = min(rows, n)
        out[f"{prompt}.logits"] = (dtype, [kept, vocab], data[(n - kept) * vocab * 4:])
        out[f"{prompt}.logits_start"] = ("I32", [1], struct.pack("<i", start + n - kept))
        out[f"{prompt}.input_ids"] = ids
        out[f"{prompt}.greedy"] = (tensors.get(f"{prompt}.greedy") or
                                   tensors[f"{prompt}.greedy_ids"])
    return out


def copy(source, target, rows, longest):
    target.mkdir(parents=True, exist_ok=True)
    for name in KEPT:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    golden = shrunk(read_safetensors(source / "golden.safetensors"), rows, longest)
    write_safetensors(target / "golden.safetensors", golden)
    about = json.loads((source / "golden.json").read_text())
    kept = {}
    if isinstance(about, dict):
        kept = {key: about[key] for key in
                ("compute", "versions", "suggested_tolerance_max_abs") if key in about}
    (target / "golden.json").write_text(json.dumps(kept, indent=1) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("fixtures", type=pathlib.Path)
    parser.add_argument("target", type=pathlib.Path)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--rows", type=int, default=24)
    parser.add_argument("--longest", type=int, default=1 << 30,
                        help="leave longer prompts out (tokens)")
    args = parser.parse_args()
    names = args.names or sorted(
        str(path.parent.relative_to(args.fixtures))
        for path in args.fixtures.rglob("golden.safetensors"))
    for name in names:
        copy(args.fixtures / name, args.target / name.replace("/", "-"), args.rows,
             args.longest)


if __name__ == "__main__":
    main()
