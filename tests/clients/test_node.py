"""The npm SDKs: node/*.test.mjs."""
import os
import pathlib
import shutil
import subprocess

import pytest

from conftest import ROOT

MODULES = ROOT / ".deps/clients-node/node_modules"


@pytest.mark.skipif(not shutil.which("node") or not MODULES.exists(),
                    reason="scripts/setup-clients installs the npm SDKs where there is npm")
def test_npm_clients(scripted, tmp_path):
    # Node looks for packages beside the test.
    for file in (pathlib.Path(__file__).parent / "node").glob("*.test.mjs"):
        shutil.copy(file, tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    result = subprocess.run(
        ["node", "--test", *map(str, tmp_path.glob("*.mjs"))], cwd=tmp_path, text=True,
        env={**os.environ, "OPTIQ_SCRIPTED": scripted.url}, capture_output=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
