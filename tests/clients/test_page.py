"""The page at /, in Chromium: it streams answers and loads nothing from elsewhere."""
import json
import os
import pathlib
import shutil
import subprocess

import httpx
import pytest

from conftest import ROOT

MODULES = ROOT / ".deps/clients-node/node_modules"
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.mark.skipif(not CHROMIUM or not (MODULES / "playwright-core").exists(),
                    reason="needs chromium, and playwright-core from scripts/setup-clients")
def test_the_page_streams_answers(demo, tmp_path):
    shutil.copy(pathlib.Path(__file__).parent / "node/page.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(MODULES)
    arguments = [demo.url]
    if os.environ.get("OPTIQ_SCREENSHOT"):
        arguments.append(os.environ["OPTIQ_SCREENSHOT"])
    result = subprocess.run(
        ["node", "page.mjs", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=55,
        env={**os.environ, "CHROMIUM": CHROMIUM})
    assert result.returncode == 0, result.stdout + result.stderr
    seen = json.loads(result.stdout)
    assert "19" in seen["answers"][0] and "42" in seen["answers"][1]
    assert seen["cells"] > 60
    assert seen["health"] == "ready"
    assert seen["problems"] == []


def test_the_page_is_kept_by_its_tag_and_allows_nothing_from_elsewhere(demo):
    page = httpx.get(demo.url + "/")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    again = httpx.get(demo.url + "/", headers={"if-none-match": page.headers["etag"]})
    assert again.status_code == 304 and again.content == b""
