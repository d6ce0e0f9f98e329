"""What optiq writes, stock mlx-lm loads, and both compute the same from it."""
import json

import numpy as np
from safetensors.numpy import load_file

from conftest import DEMO
from mlx_lm_logits import logits, write_float32_copy

# Float sums in another order: a product of the demo model's K <= 768 terms errs by at
# most K 2^-24 = 5e-5 of the sum of its terms' sizes, mostly by the root of K, 2e-6; eight
# layers of seven products each carry that on to logits of up to 20: 20 x 56 x 2e-6 / 4
# where errors are independent. Measured: 2.5e-5, for the source and for a conversion.
TOLERANCE = 5e-4


def our_logits(optiq, model, token_ids, folder):
    ids = folder / "ids.json"
    ids.write_text(json.dumps(token_ids))
    output = folder / "logits.safetensors"
    optiq("logits", model, "--input-ids", ids, "-o", output, "--exact")
    return load_file(output)["logits"]


def test_a_converted_model_gives_the_same_logits_in_stock_mlx_lm(
        optiq, converted, token_ids, tmp_path):
    ids = token_ids[:256]
    ours = our_logits(optiq, converted, ids, tmp_path)
    theirs = logits(converted, ids)
    assert ours.shape == theirs.shape == (len(ids), 8192)
    difference = np.abs(ours - theirs).max()
    print(f"largest difference {difference:.2e} of logits up to {np.abs(theirs).max():.1f}")
    assert difference <= TOLERANCE
    assert (ours.argmax(-1) == theirs.argmax(-1)).all()


def test_the_source_model_gives_the_same_logits_in_stock_mlx_lm(
        optiq, token_ids, tmp_path):
    ids = token_ids[:256]
    write_float32_copy(DEMO, tmp_path / "float32")
    ours = our_logits(optiq, "demo", ids, tmp_path)
    theirs = logits(tmp_path / "float32", ids)
    difference = np.abs(ours - theirs).max()
    print(f"largest difference {difference:.2e} of logits up to {np.abs(theirs).max():.1f}")
    assert difference <= TOLERANCE
