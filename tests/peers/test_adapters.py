"""Stock mlx-lm loads the adapters that optiq trains, and answers the same with them."""
import json

import numpy as np
import pytest
from safetensors.numpy import load_file

from mlx_lm_logits import logits


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    (directory / "train.jsonl").write_text("".join(
        json.dumps({"text": f"the number {i} is a word {7 * i} times over"}) + "\n"
        for i in range(40)))
    return directory


@pytest.mark.parametrize("flags", [
    ("--rank-scaling", "by_bits"),
    ("--rank-scaling", "by_grad", "--num-layers", "3", "--rslora"),
    ("--rank-scaling", "by_kl"),
    ("--rank-scaling", "constant", "--target-modules", "q_proj,down_proj,in_proj_qkv"),
], ids=lambda flags: "_".join(flags[1:]).replace("-", ""))
def test_same_logits_with_an_adapter(optiq, converted, token_ids, data, tmp_path, flags):
    adapter = tmp_path / "adapter"
    trained = optiq.json("lora", "train", converted, "--data", data, "-o", adapter,
                         "--rank", "4", "--iters", "12", "--learning-rate", "5e-3",
                         "--scale", "2", *flags)
    ids = token_ids[:60]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    optiq("logits", converted, "--exact", "--adapter", adapter,
          "--input-ids", tmp_path / "ids.json", "-o", tmp_path / "ours.safetensors")
    ours = load_file(tmp_path / "ours.safetensors")["logits"]
    theirs = logits(converted, ids, adapter)
    assert np.abs(ours - theirs).max() < 2e-3
    assert np.abs(ours - logits(converted, ids)).max() > 0.1  # it does something
    info = optiq.json("lora", "info", adapter)
    assert sorted(info["ranks"].values()) == sorted(trained["ranks"].values())


def test_same_logits_with_dora(optiq, token_ids, data, tmp_path):
    """On four bits: stock mlx-lm takes layers of 3, 5 and 6 bits for narrower ones."""
    model, adapter = tmp_path / "model", tmp_path / "adapter"
    optiq("convert", "demo", "-o", model, "--method", "uniform", "--target-bpw", "4",
          "--candidate-bits", "4")
    optiq("lora", "train", model, "--data", data, "-o", adapter, "--rank", "4", "--iters",
          "12", "--learning-rate", "5e-3", "--scale", "2", "--rank-scaling", "constant",
          "--dora")
    ids = token_ids[:60]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    optiq("logits", model, "--exact", "--adapter", adapter,
          "--input-ids", tmp_path / "ids.json", "-o", tmp_path / "ours.safetensors")
    ours = load_file(tmp_path / "ours.safetensors")["logits"]
    assert np.abs(ours - logits(model, ids, adapter)).max() < 2e-3
    assert np.abs(ours - logits(model, ids)).max() > 0.1


def test_a_fused_model_is_the_model_with_its_adapter(optiq, converted, token_ids, data,
                                                     tmp_path):
    adapter, fused = tmp_path / "adapter", tmp_path / "fused"
    optiq("lora", "train", converted, "--data", data, "-o", adapter, "--rank", "4",
          "--iters", "12", "--learning-rate", "5e-3", "--scale", "2")
    optiq("lora", "export", converted, adapter, "-o", fused, "--fuse", "--float")
    ids = token_ids[:60]
    theirs = logits(fused, ids)
    # The sums are stored as bfloat16.
    assert np.abs(theirs - logits(converted, ids, adapter)).max() < 0.3
    again = tmp_path / "again"
    optiq("lora", "export", converted, adapter, "-o", again)
    assert np.abs(logits(converted, ids, again) -
                  logits(converted, ids, adapter)).max() < 1e-4
    small = tmp_path / "small"
    optiq("lora", "export", converted, adapter, "-o", small, "--fuse")
    assert np.isfinite(logits(small, ids)).all()


def test_merged_adapters_are_their_sum(optiq, converted, token_ids, data, tmp_path):
    names = []
    for seed in ("1", "2"):
        names.append(tmp_path / seed)
        optiq("lora", "train", converted, "--data", data, "-o", names[-1], "--rank", "2",
              "--iters", "8", "--learning-rate", "5e-3", "--scale", "2", "--seed", seed)
    merged = tmp_path / "merged"
    optiq("lora", "merge", converted, *names, "-o", merged, "--weights", "1,0.5")
    ids = token_ids[:40]
    (tmp_path / "ids.json").write_text(json.dumps(ids))
    optiq("logits", converted, "--exact", "--adapter", merged,
          "--input-ids", tmp_path / "ids.json", "-o", tmp_path / "ours.safetensors")
    ours = load_file(tmp_path / "ours.safetensors")["logits"]
    assert np.abs(ours - logits(converted, ids, merged)).max() < 2e-3
