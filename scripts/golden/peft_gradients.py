#!/usr/bin/env python3
"""Gradients of an adapter's matrices as PyTorch and PEFT compute them, for
optiq/train/peft_gradients_test.cpp.

    scripts/golden/peft_gradients.py BASE ADAPTER

Reads the first prompt of ADAPTER/golden.safetensors and writes ADAPTER/gradients.safetensors:
each trained tensor's gradient of the mean loss over the prompt, under its name in
adapter_model.safetensors, and `loss`.
"""
import pathlib
import sys

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM


def main():
    base, adapter = sys.argv[1], pathlib.Path(sys.argv[2])
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32,
                                                 attn_implementation="eager")
    model = PeftModel.from_pretrained(model, adapter, is_trainable=True).eval()
    golden = load_file(adapter / "golden.safetensors")
    name = sorted(key for key in golden if key.endswith(".input_ids"))[-1]
    ids = golden[name].long()[None]
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    loss = torch.nn.functional.cross_entropy(logits, ids[0, 1:])
    loss.backward()
    out = {"loss": loss.detach().reshape(1), "input_ids": ids[0].int()}
    for key, value in model.named_parameters():
        if value.grad is not None:
            out[key.replace(".default", "").removesuffix(".weight")
                if "magnitude" in key else key.replace(".default", "")] = value.grad
    save_file({key: value.contiguous() for key, value in out.items()},
              adapter / "gradients.safetensors")
    print(adapter.name, float(loss), len(out))


if __name__ == "__main__":
    main()
