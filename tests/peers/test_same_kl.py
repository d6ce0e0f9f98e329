"""`optiq eval --task kl` against the definition, over mlx-lm's logits in double."""
import numpy as np
import pytest

from conftest import DEMO, TEXT
from mlx_lm_logits import logits, write_float32_copy

WINDOW = 256


def log_softmax(x):
    x = x.astype(np.float64)
    x -= x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


@pytest.fixture(scope="module")
def windows_of_kl(converted, token_ids, tmp_path_factory):
    """KL(source || converted) in nats of every position, window after window."""
    source = tmp_path_factory.mktemp("source") / "float32"
    write_float32_copy(DEMO, source)
    kl = []
    for start in range(0, len(token_ids) - 1, WINDOW):
        ids = token_ids[start:start + WINDOW]
        if len(ids) < 2:
            break
        p, q = (log_softmax(logits(model, ids)) for model in (source, converted))
        kl.append((np.exp(p) * (p - q)).sum(-1))
    return kl


def test_mean_and_p99_kl_are_those_of_the_definition(optiq, converted, windows_of_kl):
    result = optiq.json("eval", converted, "--task", "kl", "--reference", "demo",
                        "--data", TEXT, "--length", WINDOW, "--exact")
    kl = np.concatenate(windows_of_kl)
    print(f"KL {kl.mean():.6f} by mlx-lm, {result['kl_mean']:.6f} by optiq; "
          f"p99 {np.quantile(kl, 0.99):.5f} and {result['kl_p99']:.5f}")
    # Logits agree to some 1e-3 and KL is quadratic in their difference: one percent.
    assert result["kl_mean"] == pytest.approx(kl.mean(), rel=0.01)
    # Quantiles of a few hundred positions may be taken at either neighbour.
    ordered = np.sort(kl)
    at = int(0.99 * (len(ordered) - 1))
    assert (0.99 * ordered[max(at - 1, 0)] <= result["kl_p99"]
            <= 1.01 * ordered[min(at + 2, len(ordered) - 1)])


def test_int8_activations_add_little(optiq, converted, windows_of_kl):
    result = optiq.json("eval", converted, "--task", "kl", "--reference", "demo",
                        "--data", TEXT, "--length", WINDOW)
    added = result["kl_mean"] - np.concatenate(windows_of_kl).mean()
    print(f"int8 activations add {added:.5f} nats")
    assert added <= 2e-3
