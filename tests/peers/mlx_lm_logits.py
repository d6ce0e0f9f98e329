"""Logits of a checkpoint by stock mlx-lm, on the CPU in float32."""
import json
import pathlib

import mlx.core as mx
import numpy as np
from mlx_lm.tuner.utils import load_adapters
from mlx_lm.utils import load_model

mx.set_default_device(mx.cpu)


def logits(directory, token_ids, adapter=None):
    """float32 [T, vocab_size]. Loading is strict: a tensor missing or left over raises.
    (Of adapters, mlx-lm itself passes over tensors that it does not know.)"""
    model, _ = load_model(pathlib.Path(directory))
    if adapter:
        model = load_adapters(model, str(adapter))
        model.eval()
    model.set_dtype(mx.float32)
    result = model(mx.array(token_ids)[None])[0].astype(mx.float32)
    mx.eval(result)
    return np.array(result)


def write_float32_copy(source, target):
    """A float checkpoint in the form that mlx-lm loads, widened to float32.

    mlx-lm adds the one of `1 + norm` in the stored type, which in bfloat16 rounds; it
    also knows a hybrid's text model only as `qwen3_5` with a `text_config`.
    """
    tensors = {}
    for shard in sorted(pathlib.Path(source).glob("*.safetensors")):
        for name, tensor in mx.load(str(shard)).items():
            tensors["language_model." + name] = tensor.astype(mx.float32)
    target = pathlib.Path(target)
    target.mkdir()
    mx.save_safetensors(str(target / "model.safetensors"), tensors)
    config = json.loads((pathlib.Path(source) / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({
        "model_type": "qwen3_5", "text_config": config,
        "tie_word_embeddings": config["tie_word_embeddings"]}))
