"""What AWQ, GPTQ and compressed-tensors packed: the same codes give the same logits, those
that stock mlx-lm computes of AWQ."""
import json

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from conftest import ROOT
from mlx_lm_logits import logits
from test_families import fixture_with_tokenizer
from test_same_logits import our_logits

GROUP = 32
IDS = [(7 + 37 * i) % 500 for i in range(30)]
AWQ_ORDER = (0, 2, 4, 6, 1, 3, 5, 7)


def quantized(w):
    """Codes [N, K], zero points and scales [N, G] of 4 bits."""
    groups = w.reshape(len(w), -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = np.maximum((high - low) / 15, 1e-6).astype(np.float16)
    zeros = np.clip(np.round(-low / scales.astype(np.float32)), 0, 15).astype(np.int64)
    codes = np.round(groups / scales.astype(np.float32)[..., None]) + zeros[..., None]
    return np.clip(codes, 0, 15).astype(np.int64).reshape(w.shape), zeros, scales


def along(values, order=range(8)):
    """Eight values of the last axis in a word."""
    split = values.reshape(*values.shape[:-1], -1, 8)
    words = sum(split[..., column] << (4 * i) for i, column in enumerate(order))
    return np.ascontiguousarray(words).astype(np.uint32).view(np.int32)


def awq(path, codes, zeros, scales):
    return {path + ".qweight": along(codes.T, AWQ_ORDER), path + ".scales": scales.T,
            path + ".qzeros": along(zeros.T, AWQ_ORDER)}


def gptq(path, codes, zeros, scales):
    return {path + ".qweight": along(codes).T, path + ".scales": scales.T,
            path + ".qzeros": along((zeros.T - 1) % 16),
            path + ".g_idx": (np.arange(codes.shape[1]) // GROUP).astype(np.int32)}


def compressed(path, codes, zeros, scales):
    return {path + ".weight_packed": along(codes), path + ".weight_scale": scales,
            path + ".weight_zero_point": along(zeros.T).T,
            path + ".weight_shape": np.array(codes.shape)}


FORMS = {
    "awq": (awq, dict(quant_method="awq", bits=4, group_size=GROUP, version="gemm")),
    "gptq": (gptq, dict(quant_method="gptq", bits=4, group_size=GROUP, desc_act=False)),
    "gptq, ordered": (gptq, dict(quant_method="gptq", bits=4, group_size=GROUP,
                                 desc_act=True)),
    "compressed-tensors": (compressed, dict(
        quant_method="compressed-tensors", format="pack-quantized", config_groups=dict(
            group_0=dict(weights=dict(num_bits=4, group_size=GROUP, type="int"))))),
}


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """The same matrices in each form, by its name."""
    models = {}
    for name, (pack, config) in FORMS.items():
        model = fixture_with_tokenizer("llama_tied", tmp_path_factory.mktemp("packed"))
        tensors = {}
        for tensor, value in mx.load(str(model / "model.safetensors")).items():
            value = np.array(value.astype(mx.float32))
            if tensor.endswith("_proj.weight"):
                tensors |= pack(tensor.removesuffix(".weight"), *quantized(value))
            else:
                tensors[tensor] = value.astype(np.float16)
        tensors = {key: np.ascontiguousarray(value) for key, value in tensors.items()}
        save_file(tensors, model / "model.safetensors", {"format": "pt"})
        known = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(
            json.dumps(known | dict(quantization_config=config)))
        models[name] = model
    return models


def test_awq_gives_the_logits_of_stock_mlx_lm(optiq, packed, tmp_path):
    ours = our_logits(optiq, packed["awq"], IDS, tmp_path)
    difference = np.abs(ours - logits(packed["awq"], IDS)).max()
    print(f"largest difference {difference:.2e} of logits up to {np.abs(ours).max():.1f}")
    assert difference < 5e-3  # of logits in float16


@pytest.mark.parametrize("form", [form for form in FORMS if form != "awq"])
def test_other_forms_of_the_same_codes_give_the_same(optiq, packed, tmp_path, form):
    # In float the values are rounded, not the biases.
    one, other = (our_logits(optiq, packed[name], IDS, tmp_path) for name in ("awq", form))
    assert np.abs(one - other).max() < (1e-5 if form != "gptq, ordered" else 0.05)


def test_a_conversion_of_one_keeps_what_it_says(optiq, packed, tmp_path):
    optiq("convert", packed["gptq"], "-o", tmp_path / "out", "--method", "uniform",
          "--candidate-bits", 8, "--target-bpw", 8, "--skip-baselines")
    kl = optiq.json("eval", tmp_path / "out", "--task", "kl", "--reference", packed["gptq"],
                    "--data", ROOT / "tests/peers/text.txt")
    assert kl["kl_mean"] < 0.05  # other codes: above 1
