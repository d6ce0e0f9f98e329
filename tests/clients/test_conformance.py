"""llm-comply's cases against all three APIs; schemathesis against our own description."""
import json
import pathlib
import subprocess

import pytest

from conftest import ROOT

BIN = ROOT / ".deps/clients/bin"
OPENAPI = ROOT / "docs/openapi.json"


@pytest.mark.parametrize("form,path", [
    ("openai-chat", "/v1"), ("open-responses", "/v1"), ("anthropic", "/v1")])
def test_llm_comply(demo, form, path):
    result = subprocess.run(
        [BIN / "llm-comply", "--format", form, "-u", demo.url + path, "-k", "none", "-m", "demo",
         "--json", "--timeout", "50"], capture_output=True, text=True, timeout=300)
    report = json.loads(result.stdout[result.stdout.index("{"):])
    failed = [case for case in report["results"] if case["status"] not in ("passed", "skipped")]
    assert not failed, json.dumps(failed, indent=1)[:4000]


@pytest.mark.timeout(300)
def test_schemathesis(scripted):
    result = subprocess.run(
        [BIN / "schemathesis", "run", OPENAPI, "-u", scripted.url, "--checks",
         "not_a_server_error,status_code_conformance,content_type_conformance,"
         "response_schema_conformance,unsupported_method,allow_header_conformance",
         "--phases", "examples,coverage,fuzzing", "--max-examples", "20", "--seed", "1",
         "--suppress-health-check", "all"],
        capture_output=True, text=True, timeout=280)
    assert result.returncode == 0, result.stdout[-6000:] + result.stderr[-2000:]
