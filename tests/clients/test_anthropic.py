"""The official Anthropic SDK for Python."""
import json
import time

import anthropic
import httpx
import pytest

WEATHER = {
    "name": "get_weather",
    "description": "The weather of a place",
    "input_schema": {
        "type": "object",
        "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["place"],
    },
}


def call(name, **arguments):
    return f'<tool_call>\n{json.dumps({"name": name, "arguments": arguments})}\n</tool_call>'


def user(content):
    return [{"role": "user", "content": content}]


@pytest.fixture(scope="module")
def client(scripted):
    return anthropic.Anthropic(base_url=scripted.url, api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def real(demo):
    return anthropic.Anthropic(base_url=demo.url, api_key="none", max_retries=0)


def ask(client, text, **more):
    return client.messages.create(
        model="claude-opus-4-8", max_tokens=more.pop("max_tokens", 300),
        messages=user(text) if isinstance(text, str) else text, **more)


def test_models_are_listed(real):
    assert [m.id for m in real.models.list()][0] == "demo"


def test_plain_answer(client):
    reply = ask(client, "say [[Hello, you.]]")
    assert [b.type for b in reply.content] == ["text"]
    assert reply.content[0].text == "Hello, you."
    assert (reply.type, reply.role, reply.stop_reason) == ("message", "assistant", "end_turn")
    assert reply.stop_sequence is None
    assert reply.id.startswith("msg_")
    assert reply.usage.input_tokens >= 0 and reply.usage.output_tokens > 0


def test_streamed_answer_has_its_events_in_order(client):
    with client.messages.stream(
            model="demo", max_tokens=100, messages=user("say [[One, two. 漢字 🙂]]")) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.content[0].text == "One, two. 漢字 🙂"
    wire = [k for k in kinds if k in (
        "message_start", "content_block_start", "content_block_stop", "message_delta", "message_stop")]
    assert wire == ["message_start", "content_block_start", "content_block_stop",
                    "message_delta", "message_stop"]
    assert final.stop_reason == "end_turn"
    assert final.usage.output_tokens > 3


def test_stop_sequence_is_named(client):
    reply = ask(client, "say [[alpha beta gamma]]", stop_sequences=["beta"])
    assert reply.content[0].text == "alpha "
    assert (reply.stop_reason, reply.stop_sequence) == ("stop_sequence", "beta")


def test_max_tokens(client):
    reply = ask(client, "say [[a b c d e f]]", max_tokens=2)
    assert reply.stop_reason == "max_tokens"
    assert reply.usage.output_tokens == 2


def test_tool_round_trip_with_two_calls(client):
    calls = call("get_weather", place="Graz", days=2) + "\n" + call("get_weather", place="Linz")
    messages = user(f"weather [[Let me look.\n{calls}]]")
    reply = ask(client, messages, tools=[WEATHER])
    assert [b.type for b in reply.content] == ["text", "tool_use", "tool_use"]
    assert reply.stop_reason == "tool_use"
    assert reply.content[1].input == {"place": "Graz", "days": 2}
    messages += [
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in reply.content]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": reply.content[1].id, "content": "sun"},
            {"type": "tool_result", "tool_use_id": reply.content[2].id, "is_error": True,
             "content": [{"type": "text", "text": "say [[Graz is sunny.]]"}]}]}]
    assert ask(client, messages, tools=[WEATHER]).content[0].text == "Graz is sunny."


def test_streamed_tool_input_is_one_object(client):
    with client.messages.stream(
            model="demo", max_tokens=200, tools=[WEATHER],
            messages=user("x [[" + call("get_weather", place='a "quoted" \\ place') + "]]")) as stream:
        pieces = [e.partial_json for e in stream if e.type == "input_json"]
        final = stream.get_final_message()
    assert final.content[0].input == {"place": 'a "quoted" \\ place'}
    assert json.loads("".join(pieces)) == final.content[0].input


def test_tool_choice(client):
    for choice in ({"type": "any"}, {"type": "tool", "name": "get_weather"}):
        reply = ask(client, "say [[no]]", tools=[WEATHER], tool_choice=choice)
        assert [b.name for b in reply.content if b.type == "tool_use"] == ["get_weather"]
        assert reply.stop_reason == "tool_use"


def test_thinking_is_a_block_with_a_signature(client):
    text = "say [[<think>\nhm\n</think>\n\nYes.]]"
    reply = ask(client, text, thinking={"type": "enabled", "budget_tokens": 1024}, max_tokens=2000)
    assert [b.type for b in reply.content] == ["thinking", "text"]
    assert reply.content[0].thinking.strip() == "hm"
    assert isinstance(reply.content[0].signature, str)
    again = ask(client, user(text) + [
        {"role": "assistant", "content": [b.model_dump(exclude_none=True) for b in reply.content]},
        {"role": "user", "content": "say [[Still yes.]]"}])
    assert again.content[-1].text == "Still yes."


def test_structured_output(client):
    reply = ask(client, 'who [[{"name":"Ada"}]]', extra_body={"output_config": {"format": {
        "type": "json_schema", "schema": {"type": "object", "properties": {"name": {"type": "string"}},
                                          "required": ["name"], "additionalProperties": False}}}})
    assert json.loads(reply.content[0].text) == {"name": "Ada"}


def test_prefill_goes_on(client):
    reply = ask(client, user("say [[ and more]]") + [{"role": "assistant", "content": "This"}])
    assert reply.content[0].text == " and more"


def test_images_and_documents_do_not_end_a_session(client):
    pixel = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
    reply = ask(client, [{"role": "user", "content": [
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": pixel}},
        {"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": "notes"}},
        {"type": "text", "text": "say [[seen]]"}]}])
    assert reply.content[0].text == "seen"


def test_count_tokens_is_what_the_prompt_has(real):
    system = "You are terse."
    counted = real.messages.count_tokens(
        model="demo", system=system, messages=user("Hello there"), tools=[WEATHER])
    reply = ask(real, "Hello there", system=system, tools=[WEATHER], max_tokens=1)
    use = reply.usage
    assert counted.input_tokens == (
        use.input_tokens + use.cache_read_input_tokens + use.cache_creation_input_tokens)


def test_too_long_a_prompt_says_so_as_claude_code_reads_it(real):
    with pytest.raises(anthropic.BadRequestError) as error:
        ask(real, "word " * 30000)
    assert "prompt is too long: " in str(error.value)
    body = error.value.response.json()
    assert body["type"] == "error" and body["error"]["type"] == "invalid_request_error"
    assert error.value.response.headers["request-id"] == body["request_id"]


def test_errors_are_of_their_classes(client, scripted):
    with pytest.raises(anthropic.NotFoundError):
        client.messages.create(model="nobody", max_tokens=5, messages=user("x"))
    with pytest.raises(anthropic.BadRequestError):
        client.messages.create(model="demo", max_tokens=0, messages=user("x"))
    bare = httpx.post(scripted.url + "/v1/messages", json={"model": "demo", "messages": user("x")})
    assert bare.status_code == 400 and "max_tokens" in bare.json()["error"]["message"]
    with pytest.raises(anthropic.APIStatusError) as error:
        ask(client, "say [[{!busy}]]")
    assert error.value.status_code == 529
    assert "retry-after" in error.value.response.headers


def test_a_failure_in_the_middle_is_an_error_event(client):
    with pytest.raises(anthropic.APIStatusError):
        with client.messages.stream(
                model="demo", max_tokens=100,
                messages=user("say [[some words{!fail=broken}]]")) as stream:
            stream.get_final_message()


def test_both_dialects_of_authentication_and_any_version(scripted):
    for headers in ({"x-api-key": "k", "anthropic-version": "2023-06-01"},
                    {"authorization": "Bearer k", "anthropic-version": "2026-10-21"}, {}):
        reply = httpx.post(scripted.url + "/v1/messages?beta=true", headers=headers, json={
            "model": "demo", "max_tokens": 20, "temperature": 0.5, "messages": user("say [[x]]")})
        assert reply.json()["content"][0]["text"] == "x"


def test_leaving_a_stream_frees_its_place(scripted, client):
    with client.messages.stream(
            model="demo", max_tokens=2000,
            messages=user("say [[{!delay=20}" + "word " * 500 + "]]")) as stream:
        next(iter(stream.text_stream))
    for _ in range(50):
        if httpx.get(scripted.url + "/status").json()["running"] == 0:
            return
        time.sleep(0.05)
    pytest.fail("still running after 2.5 s")


def test_the_second_turn_comes_from_the_cache_whatever_shape_it_has(real):
    system = "You are a helpful guide. " * 100
    first = ask(real, [{"role": "user", "content": [
        {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]}],
        system=[{"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=12345"},
                {"type": "text", "text": system, "cache_control": {"type": "ephemeral"}}],
        max_tokens=8)
    second = ask(real, user("Hi") + [
        {"role": "assistant", "content": first.content[0].text or "x"},
        {"role": "user", "content": "And?"}],
        system=[{"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=98765"},
                {"type": "text", "text": system}], max_tokens=8)
    before = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert second.usage.cache_read_input_tokens > 0.8 * before
