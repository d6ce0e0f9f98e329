"""The Responses API through the official OpenAI SDK."""
import json

import openai
import pytest

from test_openai import call

WEATHER = {"type": "function", "name": "get_weather", "description": "The weather", "strict": False,
           "parameters": {"type": "object", "properties": {"place": {"type": "string"}},
                          "required": ["place"]}}


@pytest.fixture(scope="module")
def client(scripted):
    return openai.OpenAI(base_url=scripted.url + "/v1", api_key="none", max_retries=0)


def test_plain_answer(client):
    reply = client.responses.create(model="demo", input="say [[Hello, you.]]", instructions="Be kind.")
    assert reply.output_text == "Hello, you."
    assert reply.status == "completed"
    assert reply.usage.total_tokens == reply.usage.input_tokens + reply.usage.output_tokens


def test_events_come_in_order(client):
    with client.responses.stream(model="demo", input="say [[One two three]]") as stream:
        events = list(stream)
        final = stream.get_final_response()
    assert final.output_text == "One two three"
    assert [e.sequence_number for e in events] == list(range(len(events)))
    kinds = [e.type for e in events if e.type != "response.output_text.delta"]
    assert kinds == ["response.created", "response.in_progress", "response.output_item.added",
                     "response.content_part.added", "response.output_text.done",
                     "response.content_part.done", "response.output_item.done", "response.completed"]


def test_function_call_round_trip(client):
    question = [{"role": "user", "content": "x [[" + call("get_weather", place="Graz") + "]]"}]
    with client.responses.stream(model="demo", input=question, tools=[WEATHER]) as stream:
        kinds = [e.type for e in stream]
        reply = stream.get_final_response()
    (made,) = [item for item in reply.output if item.type == "function_call"]
    assert json.loads(made.arguments) == {"place": "Graz"}
    assert "response.function_call_arguments.delta" in kinds
    assert "response.function_call_arguments.done" in kinds
    reply = client.responses.create(model="demo", tools=[WEATHER], input=question + [
        {"type": "function_call", "call_id": made.call_id, "name": made.name, "arguments": made.arguments},
        {"type": "function_call_output", "call_id": made.call_id, "output": "say [[Sunny.]]"}])
    assert reply.output_text == "Sunny."


def test_a_response_goes_on_from_an_earlier_one(client):
    first = client.responses.create(model="demo", input="say [[first]]")
    second = client.responses.create(
        model="demo", input="say [[second]]", previous_response_id=first.id)
    assert second.output_text == "second"
    assert second.usage.input_tokens > first.usage.input_tokens
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="demo", input="x", previous_response_id="resp_unknown")


def test_length_makes_it_incomplete(client):
    reply = client.responses.create(model="demo", input="say [[a b c d e f]]", max_output_tokens=2)
    assert reply.status == "incomplete"
    assert reply.incomplete_details.reason == "max_output_tokens"


def test_reasoning_is_an_item(client):
    reply = client.responses.create(model="demo", input="say [[<think>\nhm\n</think>\n\nYes.]]")
    assert [item.type for item in reply.output] == ["reasoning", "message"]
    assert reply.output_text == "Yes."


def test_structured_output(client):
    reply = client.responses.create(model="demo", input='[[{"name":"Ada"}]]', text={"format": {
        "type": "json_schema", "name": "p", "strict": True, "schema": {
            "type": "object", "properties": {"name": {"type": "string"}},
            "required": ["name"], "additionalProperties": False}}})
    assert json.loads(reply.output_text) == {"name": "Ada"}
