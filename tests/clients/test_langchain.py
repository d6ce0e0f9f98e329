"""LangChain's OpenAI chat model."""
import pydantic
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

from test_openai import call


@pytest.fixture(scope="module")
def chat(scripted):
    return ChatOpenAI(model="demo", base_url=scripted.url + "/v1", api_key="none", max_retries=0)


def test_invoke_and_stream(chat):
    assert chat.invoke("say [[Hello.]]").content == "Hello."
    assert "".join(piece.content for piece in chat.stream("say [[One two three]]")) == "One two three"


def test_tools(chat):
    def get_weather(place: str) -> str:
        """The weather of a place."""
        return f"say [[{place} is sunny.]]"

    bound = chat.bind_tools([get_weather])
    question = HumanMessage("x [[" + call("get_weather", place="Graz") + "]]")
    reply = bound.invoke([question])
    (made,) = reply.tool_calls
    result = ToolMessage(get_weather(**made["args"]), tool_call_id=made["id"])
    assert bound.invoke([question, reply, result]).content == "Graz is sunny."


class Person(pydantic.BaseModel):
    """A person."""

    name: str
    age: int


def test_structured_output(chat):
    made = chat.with_structured_output(Person).invoke('who? [[{"name":"Ada","age":36}]]')
    assert made == Person(name="Ada", age=36)


def test_embeddings(demo):
    embeddings = OpenAIEmbeddings(
        model="demo", base_url=demo.url + "/v1", api_key="none", check_embedding_ctx_length=False)
    a, b = embeddings.embed_documents(["a cat", "a dog"])
    assert len(a) == len(b) > 0 and a != b
