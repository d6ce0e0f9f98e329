// The official SDKs for Node against a server with scripted answers: its URL stands in
// OPTIQ_SCRIPTED. Run with `node --test`.
import assert from "node:assert/strict";
import test from "node:test";
import Anthropic from "@anthropic-ai/sdk";
import OpenAI from "openai";

const url = process.env.OPTIQ_SCRIPTED;
const openai = new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: url, apiKey: "none", maxRetries: 0 });

const user = (content) => [{ role: "user", content }];
const call = (name, args) =>
  `<tool_call>\n${JSON.stringify({ name, arguments: args })}\n</tool_call>`;
const schema = { type: "object", properties: { place: { type: "string" } }, required: ["place"] };
const openaiTool = { type: "function", function: { name: "get_weather", parameters: schema } };
const anthropicTool = { name: "get_weather", input_schema: schema };

test("openai: plain and streamed", async () => {
  const reply = await openai.chat.completions.create({ model: "demo", messages: user("say [[Hello.]]") });
  assert.equal(reply.choices[0].message.content, "Hello.");
  const stream = openai.chat.completions.stream({ model: "demo", messages: user("say [[One two three]]") });
  assert.equal(await stream.finalContent(), "One two three");
  assert.equal((await stream.finalChatCompletion()).choices[0].finish_reason, "stop");
});

test("openai: parallel tool calls, streamed", async () => {
  const text = call("get_weather", { place: "Graz" }) + "\n" + call("get_weather", { place: "Linz" });
  const stream = openai.chat.completions.stream(
    { model: "demo", messages: user(`x [[${text}]]`), tools: [openaiTool] });
  const { choices: [choice] } = await stream.finalChatCompletion();
  assert.equal(choice.finish_reason, "tool_calls");
  assert.deepEqual(
    choice.message.tool_calls.map((c) => JSON.parse(c.function.arguments).place), ["Graz", "Linz"]);
});

test("openai: responses, streamed", async () => {
  const stream = openai.responses.stream({ model: "demo", input: "say [[One two]]" });
  assert.equal((await stream.finalResponse()).output_text, "One two");
});

test("openai: embeddings and errors", async () => {
  await assert.rejects(
    openai.chat.completions.create({ model: "nobody", messages: user("x") }), OpenAI.NotFoundError);
  const models = await openai.models.list();
  assert.equal(models.data[0].id, "demo");
});

test("anthropic: plain and streamed", async () => {
  const ask = { model: "claude-sonnet-4-5", max_tokens: 100 };
  const reply = await anthropic.messages.create({ ...ask, messages: user("say [[Hello.]]") });
  assert.equal(reply.content[0].text, "Hello.");
  const stream = anthropic.messages.stream({ ...ask, messages: user("say [[One two three]]") });
  const message = await stream.finalMessage();
  assert.equal(message.content[0].text, "One two three");
  assert.equal(message.stop_reason, "end_turn");
});

test("anthropic: tool use, streamed", async () => {
  const stream = anthropic.messages.stream({
    model: "demo", max_tokens: 200, tools: [anthropicTool],
    messages: user(`x [[${call("get_weather", { place: "Graz" })}]]`) });
  const message = await stream.finalMessage();
  assert.equal(message.stop_reason, "tool_use");
  assert.deepEqual(message.content.at(-1).input, { place: "Graz" });
});

test("anthropic: thinking", async () => {
  const stream = anthropic.messages.stream({
    model: "demo", max_tokens: 2000, thinking: { type: "enabled", budget_tokens: 1024 },
    messages: user("say [[<think>\nhm\n</think>\n\nYes.]]") });
  const message = await stream.finalMessage();
  assert.deepEqual(message.content.map((b) => b.type), ["thinking", "text"]);
});

test("anthropic: counting, errors, leaving", async () => {
  const counted = await anthropic.messages.countTokens({ model: "demo", messages: user("Hello") });
  assert.ok(counted.input_tokens > 0);
  await assert.rejects(
    anthropic.messages.create({ model: "demo", max_tokens: 5, messages: user("say [[{!busy}]]") }),
    (error) => error.status === 529);
  const stream = anthropic.messages.stream({
    model: "demo", max_tokens: 1000, messages: user(`say [[{!delay=20}${"word ".repeat(300)}]]`) });
  await new Promise((resolve) => stream.once("text", resolve));
  stream.abort();
  await assert.rejects(stream.finalMessage());
});
