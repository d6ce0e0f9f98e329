"""optiq serve as an operator meets it: flags, keys, hosts, health, metrics, stopping."""
import concurrent.futures
import re
import shutil
import signal
import ssl
import subprocess
import time

import httpx
import pytest

from conftest import running, serve_command

CHAT = {"model": "demo", "messages": [{"role": "user", "content": "What is 2 + 3?"}], "max_tokens": 8}


def test_health_and_metrics(demo):
    assert httpx.get(demo.url + "/health").json()["status"] == "ok"
    httpx.post(demo.url + "/v1/chat/completions", json=CHAT)
    text = httpx.get(demo.url + "/metrics").text
    value = {m[1]: float(m[2]) for m in re.finditer(r"^(optiq_\w+) (\S+)$", text, re.M)}
    assert value["optiq_generation_tokens_total"] > 0
    assert value["optiq_num_requests_running"] == 0
    assert value["optiq_time_to_first_token_seconds_count"] > 0


def test_unknown_paths_and_methods_have_their_errors(demo):
    assert httpx.get(demo.url + "/v1/nothing").status_code == 404
    wrong = httpx.get(demo.url + "/v1/chat/completions")
    assert wrong.status_code == 405 and wrong.headers["allow"] == "POST"
    assert httpx.head(demo.url + "/").status_code == 200
    anthropic = httpx.get(demo.url + "/v1/messages").json()
    assert anthropic["type"] == "error"


def test_foreign_pages_hosts_and_forms_are_refused(demo):
    post = lambda **headers: httpx.post(demo.url + "/v1/chat/completions", json=CHAT, headers=headers)
    assert post(origin="https://evil.example").status_code == 403
    assert post(host="evil.example").status_code == 403
    assert post(origin=demo.url).status_code == 200
    form = httpx.post(demo.url + "/v1/chat/completions", content=b"{}", headers={"content-type": "text/plain"})
    assert form.status_code == 415


def test_keys(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("first\nsecond\n")
    with running(*serve_command("--api-key-file", keys)) as server:
        url = server.url + "/v1/chat/completions"
        assert httpx.post(url, json=CHAT).status_code == 401
        assert httpx.post(url, json=CHAT, headers={"authorization": "Bearer second"}).status_code == 200
        assert httpx.post(url, json=CHAT, headers={"x-api-key": "wrong"}).status_code == 401
        assert httpx.get(server.url + "/health").status_code == 200
        assert httpx.get(server.url + "/metrics").status_code == 401
        assert httpx.get(server.url + "/").status_code == 200
        assert "first" not in "".join(server.log)


@pytest.mark.skipif(not shutil.which("openssl"), reason="needs openssl to make a certificate")
def test_tls(tmp_path):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out",
                    certificate, "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    with running(*serve_command("--tls-cert", certificate, "--tls-key", key)) as server:
        assert server.url.startswith("https://")
        trust = ssl.create_default_context(cafile=certificate)
        with httpx.Client(verify=trust) as client:
            for _ in range(3):  # on one connection
                reply = client.post(server.url + "/v1/chat/completions", json=CHAT)
                assert "5" in reply.json()["choices"][0]["message"]["content"]
            with client.stream("POST", server.url + "/v1/chat/completions",
                               json={**CHAT, "stream": True, "max_tokens": 5000, "ignore_eos": True}) as stream:
                next(stream.iter_lines())
        plain = server.url.replace("https", "http")
        with pytest.raises(httpx.HTTPError):
            httpx.get(plain + "/health", timeout=5)
        for _ in range(40):
            if httpx.get(server.url + "/status", verify=trust).json()["running"] == 0:
                break
            time.sleep(0.05)
        else:
            pytest.fail("a client that left is still answered")


@pytest.mark.parametrize("flags,says", [
    (["--host", "0.0.0.0"], "--api-key-file"),
    (["--alias", "x"], "NAME=MODEL"),
    (["--alias", "x=nobody"], "nobody"),
    (["--kv-memory", "lots"], "lots"),
    (["--tls-cert", "a.pem"], "--tls-key"),
    (["--max-concurrent", "0"], "--max-concurrent"),
    (["--port", "99999"], "--port"),
])
def test_wrong_flags_are_one_line(flags, says):
    result = subprocess.run(serve_command(*flags), capture_output=True, text=True, timeout=30)
    assert result.returncode == 2
    lines = [line for line in result.stderr.splitlines() if "error" in line]
    assert len(lines) == 1 and says in lines[0]


def test_a_taken_port_is_one_line(demo):
    command = serve_command()
    command[command.index("--port") + 1] = str(demo.port)
    result = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert result.returncode == 1 and str(demo.port) in result.stderr


def test_sigterm_lets_answers_finish(tmp_path):
    with running(*serve_command()) as server:
        long = {**CHAT, "max_tokens": 200, "ignore_eos": True}
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            answers = [pool.submit(httpx.post, server.url + "/v1/chat/completions", json=long, timeout=30)
                       for _ in range(8)]
            time.sleep(0.3)
            server.process.send_signal(signal.SIGTERM)
            assert all(a.result().json()["usage"]["completion_tokens"] == 200 for a in answers)
        assert server.process.wait(20) == 0


def test_an_idle_model_is_unloaded_and_comes_back():
    with running(*serve_command("--idle-unload", "0.5")) as server:
        for _ in range(2):
            reply = httpx.post(server.url + "/v1/chat/completions", json=CHAT, timeout=30).json()
            assert "5" in reply["choices"][0]["message"]["content"]
            assert httpx.get(server.url + "/status").json()["loaded"]
            for _ in range(40):
                if not httpx.get(server.url + "/status").json()["loaded"]:
                    break
                time.sleep(0.1)
            else:
                pytest.fail("still loaded after 4 s")
