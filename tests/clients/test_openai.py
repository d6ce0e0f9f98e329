"""The official OpenAI SDK for Python."""
import json
import math

import openai
import pydantic
import pytest

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "The weather of a place",
        "parameters": {
            "type": "object",
            "properties": {"place": {"type": "string"}, "days": {"type": "integer"}},
            "required": ["place"],
            "additionalProperties": False,
        },
    },
}


def call(name, **arguments):
    return f'<tool_call>\n{json.dumps({"name": name, "arguments": arguments})}\n</tool_call>'


def user(text):
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def client(scripted):
    return openai.OpenAI(base_url=scripted.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def real(demo):
    return openai.OpenAI(base_url=demo.url + "/v1", api_key="none", max_retries=0)


def test_models_are_listed_and_shown(real):
    models = list(real.models.list())
    assert [m.id for m in models][0] == "demo"
    assert real.models.retrieve("demo").object == "model"
    with pytest.raises(openai.NotFoundError):
        real.models.retrieve("../../etc/passwd")


def test_plain_answer(client):
    reply = client.chat.completions.create(model="demo", messages=user("say [[Hello, you.]]"))
    choice = reply.choices[0]
    assert choice.message.content == "Hello, you."
    assert choice.message.role == "assistant"
    assert choice.finish_reason == "stop"
    assert choice.message.tool_calls is None
    assert reply.object == "chat.completion"
    assert reply.id.startswith("chatcmpl-")
    use = reply.usage
    assert use.total_tokens == use.prompt_tokens + use.completion_tokens
    assert use.prompt_tokens > 0 and use.completion_tokens > 0


def test_streamed_answer(client):
    text, finish, usage, roles = "", None, None, []
    stream = client.chat.completions.create(
        model="demo", messages=user("say [[One, two, three. äöü 漢字 🙂]]"), stream=True,
        stream_options={"include_usage": True})
    for chunk in stream:
        if not chunk.choices:
            usage = chunk.usage
            continue
        assert chunk.usage is None
        delta = chunk.choices[0].delta
        text += delta.content or ""
        if delta.role:
            roles.append(delta.role)
        finish = chunk.choices[0].finish_reason or finish
    assert text == "One, two, three. äöü 漢字 🙂"
    assert (finish, roles) == ("stop", ["assistant"])
    assert usage.completion_tokens > 3


def test_stop_string_ends_the_text_before_it(client):
    reply = client.chat.completions.create(
        model="demo", messages=user("say [[alpha beta gamma]]"), stop=["beta"])
    assert reply.choices[0].message.content == "alpha "
    assert reply.choices[0].finish_reason == "stop"


def test_max_tokens_ends_with_length(client):
    reply = client.chat.completions.create(
        model="demo", messages=user("say [[a b c d e f g h]]"), max_completion_tokens=3)
    assert reply.choices[0].finish_reason == "length"
    assert reply.usage.completion_tokens == 3


def test_several_choices(client):
    reply = client.chat.completions.create(model="demo", messages=user("say [[same]]"), n=3)
    assert [c.index for c in reply.choices] == [0, 1, 2]
    assert {c.message.content for c in reply.choices} == {"same"}


def test_tool_call_round_trip(client):
    messages = user("weather? [[" + call("get_weather", place="Graz", days=2) + "]]")
    reply = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER])
    choice = reply.choices[0]
    assert choice.finish_reason == "tool_calls"
    (made,) = choice.message.tool_calls
    assert made.function.name == "get_weather"
    assert json.loads(made.function.arguments) == {"place": "Graz", "days": 2}
    messages.append(choice.message.model_dump(exclude_none=True))
    messages.append({"role": "tool", "tool_call_id": made.id, "content": "say [[Sunny.]]"})
    reply = client.chat.completions.create(model="demo", messages=messages, tools=[WEATHER])
    assert reply.choices[0].message.content == "Sunny."


def test_parallel_tool_calls_streamed(client):
    calls = call("get_weather", place="Graz") + "\n" + call("get_weather", place="Linz")
    with client.chat.completions.stream(
            model="demo", messages=user(f"both [[{calls}]]"), tools=[WEATHER]) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_completion()
    made = final.choices[0].message.tool_calls
    assert [json.loads(c.function.arguments)["place"] for c in made] == ["Graz", "Linz"]
    assert len({c.id for c in made}) == 2
    assert "tool_calls.function.arguments.delta" in kinds
    assert final.choices[0].finish_reason == "tool_calls"


def test_required_tool_is_called_whatever_the_model_would_say(client):
    for choice in ("required", {"type": "function", "function": {"name": "get_weather"}}):
        reply = client.chat.completions.create(
            model="demo", messages=user("say [[no, thank you]]"), tools=[WEATHER],
            tool_choice=choice, max_tokens=200)
        (made,) = reply.choices[0].message.tool_calls
        assert made.function.name == "get_weather"


def test_tools_are_not_called_when_the_choice_is_none(client):
    reply = client.chat.completions.create(
        model="demo", messages=user("say [[just text]]"), tools=[WEATHER], tool_choice="none")
    assert reply.choices[0].message.content == "just text"


class Person(pydantic.BaseModel):
    name: str
    age: int


def test_structured_output_is_parsed(client):
    reply = client.chat.completions.parse(
        model="demo", messages=user('who? [[{"name":"Ada","age":36}]]'), response_format=Person)
    assert reply.choices[0].message.parsed == Person(name="Ada", age=36)


def test_structured_output_holds_against_the_model(real):
    reply = real.chat.completions.create(
        model="demo", messages=user("Tell me a story."), max_tokens=200,
        response_format={"type": "json_schema", "json_schema": {"name": "p", "strict": True, "schema": {
            "type": "object", "properties": {"kind": {"enum": ["cat", "dog"]}, "age": {"type": "integer", "maximum": 30}},
            "required": ["kind", "age"], "additionalProperties": False}}})
    value = json.loads(reply.choices[0].message.content)
    assert value["kind"] in ("cat", "dog") and value["age"] <= 30


def test_reasoning_stands_apart(client):
    reply = client.chat.completions.create(
        model="demo", messages=user("say [[<think>\nhm\n</think>\n\nForty-two.]]"))
    assert reply.choices[0].message.content == "Forty-two."
    assert reply.choices[0].message.reasoning_content.strip() == "hm"


def test_log_probabilities(real):
    reply = real.chat.completions.create(
        model="demo", messages=user("Hello"), max_tokens=5, logprobs=True, top_logprobs=3)
    for token in reply.choices[0].logprobs.content:
        assert token.logprob <= 0
        assert len(token.top_logprobs) == 3
        assert math.isclose(token.logprob, token.top_logprobs[0].logprob, abs_tol=1e-5)
        assert bytes(token.bytes).decode(errors="replace") == token.token


def test_same_seed_same_answer(real):
    def answer(seed):
        return real.chat.completions.create(
            model="demo", messages=user("Once upon a time"), max_tokens=20, temperature=1,
            seed=seed).choices[0].message.content
    assert answer(7) == answer(7)
    assert len({answer(seed) for seed in range(4)}) > 1


def test_logit_bias_forbids_a_token(real):
    def first(**more):
        return real.chat.completions.create(
            model="demo", messages=user("Hello"), max_tokens=1, logprobs=True,
            top_logprobs=1, **more).choices[0]
    token = first().logprobs.content[0].token
    completion = real.completions.create(model="demo", prompt="Hello", max_tokens=1, logprobs=1)
    assert completion.choices[0].logprobs.tokens
    biased = {str(i): -100 for i in range(0, 8192, 2)}
    with pytest.raises(openai.BadRequestError):
        first(logit_bias=biased)
    assert isinstance(token, str)


def test_completions(client, real):
    reply = real.completions.create(
        model="demo", prompt=["Once upon", "The sea"], max_tokens=4, temperature=0)
    assert [c.index for c in reply.choices] == [0, 1]
    assert reply.object == "text_completion"
    echoed = real.completions.create(model="demo", prompt="Once upon", max_tokens=2, echo=True)
    assert echoed.choices[0].text.startswith("Once upon")
    pieces = [c.choices[0].text for c in client.completions.create(
        model="demo", prompt="say [[abc def]]", stream=True) if c.choices]
    assert "".join(pieces) == "abc def"


def test_embeddings_in_both_forms_are_the_same(real):
    by_base64 = real.embeddings.create(model="demo", input=["a cat", "a dog"])
    by_float = real.embeddings.create(model="demo", input=["a cat", "a dog"], encoding_format="float")
    for a, b in zip(by_base64.data, by_float.data):
        assert a.embedding == pytest.approx(b.embedding, abs=1e-6)
        assert math.isclose(sum(x * x for x in a.embedding), 1, abs_tol=1e-4)
    assert by_float.usage.prompt_tokens > 0


def test_errors_are_of_their_classes(client, real):
    with pytest.raises(openai.NotFoundError) as error:
        client.chat.completions.create(model="nobody", messages=user("x"))
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as error:
        client.chat.completions.create(model="demo", messages=user("x"), temperature=7)
    assert error.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as error:
        real.chat.completions.create(model="demo", messages=user("word " * 30000))
    assert error.value.code == "context_length_exceeded"
    assert error.value.response.headers["x-request-id"]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="demo", messages=[])


def test_a_failure_in_the_middle_is_an_error_and_not_a_short_answer(client):
    with pytest.raises(openai.APIError):
        for _ in client.chat.completions.create(
                model="demo", messages=user("say [[some words{!fail=broken}]]"), stream=True):
            pass


def test_busy_is_retried(scripted):
    client = openai.OpenAI(base_url=scripted.url + "/v1", api_key="none", max_retries=1)
    with pytest.raises(openai.RateLimitError) as error:
        client.chat.completions.create(model="demo", messages=user("say [[{!busy}]]"))
    assert "retry-after" in error.value.response.headers


def test_leaving_a_stream_frees_its_place(scripted, client):
    import httpx, time
    stream = client.chat.completions.create(
        model="demo", messages=user("say [[{!delay=20}" + "word " * 500 + "]]"), stream=True)
    next(iter(stream))
    stream.close()
    for _ in range(50):
        if httpx.get(scripted.url + "/status").json()["running"] == 0:
            return
        time.sleep(0.05)
    pytest.fail("still running after 2.5 s")


def test_the_second_turn_comes_from_the_cache(real):
    messages = [{"role": "system", "content": "You are a helpful guide. " * 100}] + user("Hi")
    first = real.chat.completions.create(model="demo", messages=messages, max_tokens=8)
    messages += [{"role": "assistant", "content": first.choices[0].message.content}] + user("And?")
    second = real.chat.completions.create(model="demo", messages=messages, max_tokens=8)
    use = second.usage
    assert use.prompt_tokens_details.cached_tokens > 0.8 * first.usage.prompt_tokens
