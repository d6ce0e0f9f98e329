"""Every family that optiq converts, stock mlx-lm loads, and both compute the same."""
import json
import shutil

import numpy as np
import pytest

from conftest import ROOT
from mlx_lm_logits import logits
from test_same_logits import our_logits

GOLDEN = ROOT / "tests/data/golden"
# Logits of these reach 12; their sums are shorter than the demo model's. One of them
# has an ill-conditioned token (its golden.json says so).
TOLERANCE = {"qwen3_5_moe_vlm": 3e-3}


def fixture_with_tokenizer(name, folder):
    source = folder / "source"
    source.mkdir()
    for file in ("config.json", "generation_config.json", "model.safetensors"):
        shutil.copy(GOLDEN / name / file, source)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(GOLDEN / file, source)
    # mlx-lm turns phi3 by its long factors whatever the length: not asked here.
    if name == "phi3_longrope":
        config = json.loads((source / "config.json").read_text())
        config["rope_scaling"] = None
        (source / "config.json").write_text(json.dumps(config))
    return source


@pytest.mark.parametrize("name", ["gemma3_text", "gemma4_moe", "gemma4_text", "llama_tied", "mistral",
                                  "phi3_longrope", "qwen2", "qwen3", "qwen3_5_text",
                                  "qwen3_moe", "qwen3_5_moe_vlm"])
@pytest.mark.parametrize("bits", [4, 8])
def test_a_conversion_gives_the_same_logits_in_stock_mlx_lm(optiq, name, bits, tmp_path):
    source = fixture_with_tokenizer(name, tmp_path)
    converted = tmp_path / "converted"
    optiq("convert", source, "-o", converted, "--method", "uniform", "--candidate-bits", bits,
          "--target-bpw", bits, "--skip-baselines")
    # Fewer than mistral's window, which mlx-lm passes over.
    ids = [(7 + 37 * i) % 500 for i in range(30)]
    ours = our_logits(optiq, converted, ids, tmp_path)
    theirs = logits(converted, ids)
    difference = np.abs(ours - theirs).max()
    print(f"largest difference {difference:.2e} of logits up to {np.abs(theirs).max():.1f}")
    assert difference <= TOLERANCE.get(name, 5e-4)
