"""The servers under test: one with scripted answers, one with the demo model."""
import contextlib
import os
import pathlib
import re
import signal
import subprocess
import threading

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("OPTIQ_BUILD", ROOT / "build/release"))

# Nothing of the user's own set-up reaches a client, and none of them leaves loopback.
for name in list(os.environ):
    if name.startswith(("OPENAI_", "ANTHROPIC_", "CLAUDE_", "LANGCHAIN_", "LANGSMITH_")):
        del os.environ[name]
for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
    os.environ.pop(name, None)


class Server:
    """A server process; `url` is where it listens."""

    def __init__(self, *command, env=None):
        self.log = []
        self.process = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True, errors="replace",
            env={**os.environ, **(env or {})})
        found = threading.Event()
        self.url = None

        def read():
            for line in self.process.stderr:
                self.log.append(line)
                at = re.search(r"https?://[\w.\[\]:]+:\d+", line)
                if at and not self.url:
                    self.url = at.group()
                    found.set()
            found.set()

        threading.Thread(target=read, daemon=True).start()
        found.wait(120)
        if not self.url:
            self.process.kill()
            pytest.fail("the server did not start:\n" + "".join(self.log))

    @property
    def port(self):
        return int(self.url.rsplit(":", 1)[1])

    def stop(self):
        """Asks it to end, as an init system does; gives its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@contextlib.contextmanager
def running(*command, env=None):
    server = Server(*command, env=env)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            try:
                server.stop()
            except subprocess.TimeoutExpired:
                server.process.kill()


def scripted_command(*flags):
    return [BUILD / "tests/scripted_server", "--port", "0", *flags]


def serve_command(*flags):
    return [BUILD / "apps/optiq/optiq", "serve", "--model", "demo", "--port", "0", *flags]


@pytest.fixture(scope="session")
def scripted():
    with running(*scripted_command()) as server:
        yield server
        assert server.process.poll() is None, "".join(server.log[-20:])


@pytest.fixture(scope="session")
def demo():
    with running(*serve_command()) as server:
        yield server
        assert server.process.poll() is None, "".join(server.log[-20:])
