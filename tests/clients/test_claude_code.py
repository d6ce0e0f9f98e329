"""Claude Code itself, in a home directory of its own, with loopback alone."""
import json
import os
import subprocess

import pytest

from conftest import ROOT, running, serve_command

CLAUDE = ROOT / ".deps/clients-claude/node_modules/.bin/claude"

pytestmark = pytest.mark.skipif(
    not CLAUDE.exists(), reason="scripts/setup-clients --claude-code installs it")


def claude(server, tmp_path, *arguments, text, more=None, succeeds=True):
    home = tmp_path / "home"
    work = tmp_path / "work"
    home.mkdir(exist_ok=True)
    work.mkdir(exist_ok=True)
    environment = {
        "HOME": str(home), "PATH": os.environ["PATH"], "TERM": "dumb", "LANG": "C.UTF-8",
        "ANTHROPIC_BASE_URL": server.url, "ANTHROPIC_AUTH_TOKEN": "none",
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1", "DISABLE_AUTOUPDATER": "1",
        # Nothing but loopback can be reached, whatever it tries.
        "HTTPS_PROXY": "http://127.0.0.1:9", "NO_PROXY": "127.0.0.1", **(more or {}),
    }
    result = subprocess.run(
        [CLAUDE, "-p", text, "--output-format", "json", *arguments], cwd=work, env=environment,
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300)
    assert not succeeds or result.returncode == 0, result.stdout + result.stderr
    return json.loads(result.stdout)


def test_it_answers(scripted, tmp_path):
    reply = claude(scripted, tmp_path, text="say [[Hello from here.]]")
    assert reply["result"] == "Hello from here."
    assert not reply["is_error"]


def test_it_uses_a_tool_and_goes_on(scripted, tmp_path):
    # The brackets are spelt by what the tool prints, not by the prompt.
    command = {"command": r"printf '\133\133All done.\135\135'", "description": "Print"}
    text = "<tool_call>\n" + json.dumps({"name": "Bash", "arguments": command}) + "\n</tool_call>"
    reply = claude(scripted, tmp_path, "--allowedTools", "Bash", text=f"x [[{text}]]")
    assert reply["result"] == "All done."
    assert reply["num_turns"] == 2


def test_the_demo_model_reads_its_long_prompt_and_answers(tmp_path):
    # Beyond the length it was trained to it writes on and on: what counts is that the
    # prompt of some 20k tokens is read, and the session goes on from the prefix cache.
    with running(*serve_command("--max-context", "65536", "--kv-bits", "8")) as server:
        reply = claude(server, tmp_path, text="hi", succeeds=False,
                       more={"CLAUDE_CODE_MAX_OUTPUT_TOKENS": "50"})
        use = reply["usage"]
        assert use["output_tokens"] > 0
        assert use["cache_read_input_tokens"] > 20000, "the later turns' prompts"
        assert any("trained" in line for line in server.log), "a warning about the length"
