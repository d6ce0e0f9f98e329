// What the server does, asked for each second while the page is seen; and the API key
// that all parts of the page send.
const byId = (id) => document.getElementById(id);
const SECONDS = 120;
const rates = [];
let before = null;

export const headers = (others = {}) => {
  const key = byId("key").value;
  return key ? { ...others, authorization: `Bearer ${key}` } : others;
};

export function onUnauthorized() {
  byId("key_label").hidden = false;
}

export async function getJson(path) {
  const response = await fetch(path, { headers: headers() });
  if (response.status === 401) onUnauthorized();
  if (!response.ok) throw new Error(`${path}: ${response.status}`);
  return response.json();
}

const bytes = (n) => {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  for (; n >= 1000 && unit < units.length - 1; ++unit) n /= 1000;
  return `${n.toFixed(unit && n < 100 ? 1 : 0)} ${units[unit]}`;
};

function show(status) {
  const cache = status.cache;
  const seen = status.prompt_tokens + status.cached_tokens;
  const rows = [
    ["answering", status.running],
    ["waiting", status.waiting],
    ["tokens written", status.completion_tokens.toLocaleString()],
    ["prompt tokens", seen.toLocaleString()],
    ["of them cached", seen ? `${Math.round(100 * status.cached_tokens / seen)} %` : "-"],
    ["cache used", `${bytes(cache.used_bytes + cache.shared_bytes)} of ${bytes(cache.budget_bytes)}`],
    ["kept prefixes", `${cache.prefix_entries} (${bytes(cache.prefix_bytes)})`],
  ];
  byId("status").replaceChildren(...rows.flatMap(([name, value]) => {
    const dt = document.createElement("dt"), dd = document.createElement("dd");
    dt.textContent = name;
    dd.textContent = value;
    return [dt, dd];
  }));
}

function showRate(status) {
  const now = performance.now();
  if (before) {
    const tokens = status.completion_tokens - before.tokens;
    rates.push(Math.max(0, 1000 * tokens / (now - before.when)));
    if (rates.length > SECONDS) rates.shift();
  }
  before = { when: now, tokens: status.completion_tokens };
  const top = Math.max(1, ...rates);
  const points = rates.map((rate, i) =>
    `${(240 * (SECONDS - rates.length + i) / (SECONDS - 1)).toFixed(1)},${(46 - 44 * rate / top).toFixed(1)}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  byId("rate").replaceChildren(line);
}

async function refresh() {
  const badge = byId("health");
  try {
    const status = await getJson("/status");
    show(status);
    showRate(status);
    badge.textContent = status.loaded ? "ready" : "asleep";
    badge.className = "badge ok";
  } catch {
    badge.textContent = "no answer";
    badge.className = "badge bad";
    before = null;
  }
}

setInterval(() => document.hidden || refresh(), 1000);
refresh();
