"""docs/examples/serve: a server inside of somebody's own program."""
import subprocess

import openai

from conftest import BUILD


def test_a_program_serves_and_ends_with_its_input():
    process = subprocess.Popen([BUILD / "tests/example_serve", "demo"], stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    try:
        url = process.stderr.readline().strip()
        client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        reply = client.chat.completions.create(
            model="anything", messages=[{"role": "user", "content": "What is 12 + 7?"}])
        assert "19" in reply.choices[0].message.content
        process.stdin.close()
        assert process.wait(20) == 0
    finally:
        process.kill()
