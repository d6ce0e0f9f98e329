"""scripts/make-random-model writes what stock mlx-lm loads."""
import subprocess
import sys

import numpy as np
import pytest

from conftest import ROOT
from mlx_lm_logits import logits


@pytest.mark.parametrize("shape", ["small", "small-hybrid", "small-moe"])
@pytest.mark.parametrize("bits", [0, 3, 4, 8])
def test_random_weights_give_finite_logits(shape, bits, tmp_path):
    directory = tmp_path / "model"
    subprocess.run([sys.executable, ROOT / "scripts/make-random-model", shape, directory,
                    "--bits", str(bits)], check=True, stdout=subprocess.DEVNULL)
    result = logits(directory, [1, 2, 3, 4, 5])
    assert np.isfinite(result).all()
    # Not collapsed: normalized states times rows of deviation 0.02 give 0.02 sqrt(128).
    assert 0.1 < result.std() < 0.5
