// The bits of each layer's weights and of its key-value cache, as a picture: a column a
// layer, a row a matrix.
import { getJson } from "/page/status.js";

const SVG = "http://www.w3.org/2000/svg";
const CELL = 14, LEFT = 74, TOP = 12;

// From few bits (dark blue) to many (orange), readable for the colour-blind.
const COLOURS = { 2: "#26456e", 3: "#2f6ba8", 4: "#5b9bd0", 5: "#a9c9de", 6: "#f3c58a",
  8: "#ec8f3b", 16: "#c9501c" };
const colour = (bits) => {
  const known = Object.keys(COLOURS).map(Number);
  return COLOURS[known.reduce((a, b) => Math.abs(b - bits) < Math.abs(a - bits) ? b : a)];
};

function make(tag, attributes, text) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

function cell(svg, column, row, bits, title) {
  const rect = make("rect", { x: LEFT + column * CELL, y: TOP + row * CELL,
    width: CELL - 2, height: CELL - 2, rx: 2, fill: colour(bits) });
  rect.append(make("title", {}, title));
  svg.append(rect);
}

function draw(model) {
  const rows = [];
  for (const layer of model.layers)
    for (const module of layer.modules)
      if (!rows.includes(module.name)) rows.push(module.name);
  const cached = model.layers.some((layer) => layer.k_bits);
  const names = cached ? [...rows, "K cache", "V cache"] : rows;
  const bits = new Set(model.layers.flatMap((layer) =>
    [...layer.modules.map((m) => m.bits), layer.k_bits, layer.v_bits].filter(Boolean)));
  const width = LEFT + Math.max(model.layers.length * CELL, bits.size * 34) + 4;
  const height = TOP + names.length * CELL + 26;
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img",
    "aria-label": "Bits of each layer's matrices" });
  names.forEach((name, row) =>
    svg.append(make("text", { x: LEFT - 5, y: TOP + row * CELL + 9,
      "text-anchor": "end" }, name.split(".").pop())));
  model.layers.forEach((layer, column) => {
    if (column % 4 === 0)
      svg.append(make("text", { x: LEFT + column * CELL, y: 8 }, layer.name));
    for (const module of layer.modules)
      cell(svg, column, rows.indexOf(module.name), module.bits,
        `${layer.name} ${module.name}: ${module.bits} bits` +
        (module.group_size ? `, groups of ${module.group_size}` : ""));
    if (layer.k_bits) {
      cell(svg, column, rows.length, layer.k_bits, `${layer.name} keys: ${layer.k}`);
      cell(svg, column, rows.length + 1, layer.v_bits, `${layer.name} values: ${layer.v}`);
    }
  });
  [...bits].sort((a, b) => a - b).forEach((b, i) => {
    const x = LEFT + i * 34, y = height - 16;
    svg.append(make("rect", { x, y, width: 10, height: 10, rx: 2, fill: colour(b) }));
    svg.append(make("text", { x: x + 13, y: y + 9 }, String(b)));
  });
  document.getElementById("layers").replaceChildren(svg);
  document.getElementById("layers_text").textContent = model.summary;
  document.getElementById("model").textContent = model.name;
}

getJson("/model.json").then((model) => model && draw(model)).catch(() => {});
