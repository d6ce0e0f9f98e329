"""The program under test, and one conversion that all tests of this folder read."""
import json
import os
import pathlib
import subprocess

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEMO = ROOT / "models/demo"
TEXT = pathlib.Path(__file__).parent / "text.txt"


class Optiq:
    """Runs the program; a failure shows what it printed."""

    def __init__(self, program):
        self.program = program

    def __call__(self, *arguments):
        result = subprocess.run(
            [self.program, *map(str, arguments)], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, check=False)
        assert result.returncode == 0, f"{result.args}\n{result.stdout}{result.stderr}"
        return result.stdout

    def json(self, *arguments):
        return json.loads(self(*arguments, "--json", "-"))


@pytest.fixture(scope="session")
def optiq():
    program = os.environ.get("OPTIQ", str(ROOT / "build/release/apps/optiq/optiq"))
    if not os.access(program, os.X_OK):
        pytest.exit(f"{program} is not there: scripts/setup builds it", returncode=1)
    return Optiq(program)


@pytest.fixture(scope="session")
def converted(optiq, tmp_path_factory):
    """models/demo with widths 3, 4, 6 and 8 mixed: little calibration is enough here."""
    output = tmp_path_factory.mktemp("converted") / "demo"
    optiq("convert", "demo", "-o", output, "--target-bpw", "4.5",
          "--candidate-bits", "3,4,6,8", "--n-calibration", "4",
          "--calibration-length", "128", "--skip-baselines")
    return output


@pytest.fixture(scope="session")
def token_ids():
    """The tokens of text.txt, by the tokenizers package."""
    import tokenizers
    tokenizer = tokenizers.Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    text = TEXT.read_text(encoding="utf-8")
    return tokenizer.encode(text, add_special_tokens=False).ids
