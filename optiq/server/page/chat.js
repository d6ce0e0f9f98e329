// A chat over /v1/chat/completions, streamed. What the model writes is only ever set as
// text, never as markup.
import { headers, onUnauthorized } from "/page/status.js";

const byId = (id) => document.getElementById(id);
const history = [];
let running = null;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function addMessage(role) {
  byId("hint")?.remove();
  const message = element("div", `message ${role}`);
  message.append(element("div", "who", role === "user" ? "You" : "Model"));
  const body = element("div", "body");
  message.append(body);
  byId("messages").append(message);
  return body;
}

// Fenced code as blocks of its own, the rest as it is.
function showText(body, text) {
  const parts = text.split(/^```[^\n]*\n?/m);
  const shown = parts.map((part, i) =>
    i % 2 ? element("pre", "", part.replace(/\n$/, "")) : element("div", "text", part));
  body.replaceChildren(...shown);
}

function showAnswer(body, answer) {
  showText(body, answer.text);
  if (!answer.reasoning) return;
  const details = element("details");
  details.open = !answer.text;
  details.append(element("summary", "", "Reasoning"));
  details.append(element("div", "text", answer.reasoning));
  body.prepend(details);
}

// The data of each server-sent event, as it comes.
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffered = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffered += value;
    const frames = buffered.split("\n\n");
    buffered = frames.pop();
    for (const frame of frames)
      for (const line of frame.split("\n"))
        if (line.startsWith("data: ")) yield line.slice(6);
  }
}

async function errorText(response) {
  try {
    return (await response.json()).error.message;
  } catch {
    return `the server answered ${response.status}`;
  }
}

async function ask(question) {
  history.push({ role: "user", content: question });
  showText(addMessage("user"), question);
  const body = addMessage("assistant");
  const answer = { text: "", reasoning: "" };
  const scroller = byId("messages");
  running = new AbortController();
  byId("stop").hidden = false;
  byId("send").hidden = true;
  try {
    const response = await fetch("/v1/chat/completions", {
      method: "POST",
      headers: headers({ "content-type": "application/json" }),
      signal: running.signal,
      body: JSON.stringify({
        model: "default",
        messages: history,
        stream: true,
        temperature: Number(byId("temperature").value),
        max_tokens: Number(byId("max_tokens").value),
        chat_template_kwargs: { enable_thinking: byId("thinking").checked },
      }),
    });
    if (response.status === 401) onUnauthorized();
    if (!response.ok) throw new Error(await errorText(response));
    for await (const data of events(response)) {
      if (data === "[DONE]") continue;  // the connection ends by itself
      const chunk = JSON.parse(data);
      if (chunk.error) throw new Error(chunk.error.message);
      const delta = chunk.choices[0]?.delta ?? {};
      answer.text += delta.content ?? "";
      answer.reasoning += delta.reasoning_content ?? "";
      const atEnd = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight < 40;
      showAnswer(body, answer);
      if (atEnd) scroller.scrollTop = scroller.scrollHeight;
    }
  } catch (error) {
    if (error.name !== "AbortError") body.append(element("div", "failed", error.message));
  } finally {
    running = null;
    byId("stop").hidden = true;
    byId("send").hidden = false;
    // An answer of nothing would be refused when it is sent back.
    if (answer.text) history.push({ role: "assistant", content: answer.text });
    else history.pop();
  }
}

byId("ask").addEventListener("submit", (event) => {
  event.preventDefault();
  const question = byId("question").value.trim();
  if (!question || running) return;
  byId("question").value = "";
  ask(question);
});
byId("question").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  byId("ask").requestSubmit();
});
byId("stop").addEventListener("click", () => running?.abort());
byId("clear").addEventListener("click", () => {
  running?.abort();
  history.length = 0;
  byId("messages").replaceChildren();
});
