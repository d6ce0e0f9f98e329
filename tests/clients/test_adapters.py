"""LoRA adapters behind both APIs: chosen per request, mounted and unmounted, never mixed up."""
import concurrent.futures
import json
import subprocess

import anthropic
import httpx
import openai
import pytest

from conftest import BUILD, running, serve_command

OPTIQ = BUILD / "apps/optiq/optiq"
QUESTION = "What is 12 + 7?"


@pytest.fixture(scope="module")
def adapters(tmp_path_factory):
    """Two adapters that make the demo model say something of their own."""
    root = tmp_path_factory.mktemp("adapters")
    for name, answer in (("red", "ruby ruby ruby"), ("blue", "azure azure")):
        data = root / f"{name}-data"
        data.mkdir()
        (data / "train.jsonl").write_text("".join(json.dumps(
            {"messages": [{"role": "user", "content": f"What is {i} + {j}?"},
                          {"role": "assistant", "content": answer}]}) + "\n"
            for i in range(8, 14) for j in range(4, 9)))
        subprocess.run(
            [OPTIQ, "lora", "train", "demo", "--data", data, "-o", root / name,
             "--mask-prompt", "--rank", "4", "--iters", "14", "--batch-size", "8",
             "--learning-rate", "1e-2", "--scale", "2", "--quiet"],
            check=True, stdout=subprocess.DEVNULL)
    return root


@pytest.fixture(scope="module")
def served(adapters):
    with running(*serve_command("--adapter", f"red={adapters / 'red'}",
                                "--adapter", f"{adapters / 'blue'}",
                                "--adapter-admin")) as server:
        yield server


def ask(url, **body):
    body = {"model": "demo", "messages": [{"role": "user", "content": QUESTION}],
            "max_tokens": 16, "temperature": 0, **body}
    reply = httpx.post(f"{url}/v1/chat/completions", json=body, timeout=60)
    assert reply.status_code == 200, reply.text
    return reply.json()["choices"][0]["message"]["content"]


def test_an_adapter_is_chosen_by_model_or_by_field(served):
    url = served.url
    base = ask(url)
    assert "19" in base
    red, blue = ask(url, model="red"), ask(url, model="blue")
    assert "ruby" in red and "azure" in blue
    assert ask(url, adapter="red") == red
    assert ask(url, adapters="blue") == blue
    assert ask(url, adapters=["blue"]) == blue
    assert ask(url, model="red", adapter="blue") == blue
    for none in ("base", "none", "off", ""):
        assert ask(url, model="red", adapter=none) == base
    assert ask(url, adapter=None) == base
    both = ask(url, adapter="red+blue")
    assert both == ask(url, adapters=["red", "blue"]) and both not in (red, blue, base)


def test_every_route_knows_them(served):
    client = openai.OpenAI(base_url=f"{served.url}/v1", api_key="none")
    assert {"demo", "red", "blue"} <= {model.id for model in client.models.list()}
    assert client.models.retrieve("red").parent == "demo"
    chat = "".join(chunk.choices[0].delta.content or "" for chunk in
                   client.chat.completions.create(
                       model="red", messages=[{"role": "user", "content": QUESTION}],
                       temperature=0, stream=True) if chunk.choices)
    assert "ruby" in chat
    assert "ruby" in client.responses.create(model="red", input=QUESTION,
                                             temperature=0).output_text
    prompt = f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    texts = {name: client.completions.create(
        model="demo", prompt=prompt, temperature=0, max_tokens=8,
        extra_body={"adapter": name}).choices[0].text for name in ("base", "red", "blue")}
    assert len(set(texts.values())) == 3
    other = anthropic.Anthropic(base_url=served.url, api_key="none")
    message = other.messages.create(model="blue", max_tokens=16,
                                    messages=[{"role": "user", "content": QUESTION}])
    assert "azure" in message.content[0].text
    message = other.messages.create(model="demo", max_tokens=16,
                                    messages=[{"role": "user", "content": QUESTION}],
                                    extra_body={"adapter": "red"})
    assert "ruby" in message.content[0].text
    rows = httpx.get(f"{served.url}/v1/adapters").json()
    assert rows["object"] == "list"
    assert [row["id"] for row in rows["data"]] == ["blue", "red"]
    assert rows["data"][0]["mounted_layers"] == 62


@pytest.mark.parametrize("body, status, said", [
    ({"adapter": "green"}, 400, "green"),
    ({"adapter": "../red"}, 400, "../red"),
    ({"adapter": "red+green"}, 400, "green"),
    ({"adapter": 5}, 400, "adapter"),
    ({"model": "green"}, 404, "green"),
])
def test_unknown_names_are_errors_and_never_paths(served, body, status, said):
    reply = httpx.post(f"{served.url}/v1/chat/completions", json={
        "model": "demo", "messages": [{"role": "user", "content": "x"}], **body})
    assert reply.status_code == status
    assert said in reply.json()["error"]["message"]


def test_mounting_while_others_are_answered(served, adapters):
    url = served.url
    alone = {name: ask(url, adapter=name) for name in ("base", "red", "blue")}
    wrong = []

    def talk(name):
        for _ in range(12):
            answer = ask(url, adapter=name)
            if answer != alone[name]:
                wrong.append((name, answer))

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        talks = [pool.submit(talk, name) for name in alone for _ in range(2)]
        for i in range(6):
            name = f"guest{i}"
            reply = httpx.post(f"{url}/v1/adapters", timeout=60,
                               json={"id": name, "path": str(adapters / "red")})
            assert reply.status_code == 200, reply.text
            assert ask(url, model=name) == alone["red"]
            assert httpx.delete(f"{url}/v1/adapters/{name}").status_code == 200
        for done in talks:
            done.result()
    assert not wrong
    assert [row["id"] for row in httpx.get(f"{url}/v1/adapters").json()["data"]] == \
        ["blue", "red"]


def test_what_cannot_be_mounted_is_said(served, adapters):
    def post(**body):
        reply = httpx.post(f"{served.url}/v1/adapters", json=body, timeout=60)
        return reply.status_code, reply.json()["error"]["message"]

    assert post(id="red", path=str(adapters / "red"))[0] == 409
    assert post(id="demo", path=str(adapters / "red"))[0] == 409
    status, message = post(id="x", path=str(adapters / "red-data"))
    assert status == 400 and "adapter_config.json" in message
    assert post(id="a+b", path=str(adapters / "red"))[0] == 400
    assert post(id="x")[0] == 400
    assert httpx.delete(f"{served.url}/v1/adapters/x").status_code == 404


def test_a_single_adapter_answers_by_itself_and_admin_is_off(adapters):
    with running(*serve_command("--adapter", f"red={adapters / 'red'}")) as server:
        assert "ruby" in ask(server.url)
        assert "19" in ask(server.url, adapter="none")
        assert any("red" in line and "rank" in line for line in server.log)
        reply = httpx.post(f"{server.url}/v1/adapters",
                           json={"id": "x", "path": str(adapters / "red")})
        assert reply.status_code in (404, 405)


def test_the_program_takes_adapters_too(adapters):
    def generate(*flags):
        return subprocess.run([OPTIQ, "generate", "demo", "-p", QUESTION, "--quiet", *flags],
                              check=True, capture_output=True, text=True).stdout

    assert "19" in generate()
    assert "ruby" in generate("--adapter", adapters / "red")
