// The surprise curve: 1 - cosine of what was expected and what came, chunk by chunk.

import { draw, make } from "./parts.js";

const WIDEST = 860, NARROWEST = 300, HEIGHT = 250, LEFT = 46, RIGHT = 12, TOP = 14, BOTTOM = 36;

/** A figure with a line for each model.
 * @param series [{ name, place, chunks: [{ text, surprise | null, opens_segment }] }], of the same text. */
export function surpriseCard(series) {
  const chunks = series[0].chunks;
  const known = series.flatMap(each => each.chunks.map(chunk => chunk.surprise)).filter(value => value !== null);
  const card = make("section", { class: "card curve", "aria-label": "Surprise" },
    make("h2", {}, "How unexpected each chunk was"),
    make("p", { class: "quiet" }, "0 is as expected, 1 unrelated. A topic may change where a chunk comes as a surprise."));
  card.append(drawing(series, chunks.length, Math.max(1, ...known)), legend(series), numbers(series, chunks));
  return card;
}

function drawing(series, count, top) {
  // As wide as it will be shown, so that its letters keep their size on a phone.
  const width = Math.max(NARROWEST, Math.min(WIDEST, document.documentElement.clientWidth - 70));
  const x = i => LEFT + (width - LEFT - RIGHT) * i / (count - 1);
  const y = value => HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * Math.max(0, value) / top;
  const svg = draw("svg", { viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": spoken(series) });
  for (let value = 0; value <= top; value += 0.25) {
    svg.append(draw("line", { class: "axis", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
      draw("text", { x: LEFT - 6, y: y(value) + 4, "text-anchor": "end" }, value.toFixed(2)));
  }
  const step = Math.ceil(count * 40 / width);
  for (let i = 0; i < count; i += step) {
    svg.append(draw("text", { x: x(i), y: HEIGHT - BOTTOM + 17, "text-anchor": "middle" }, String(i + 1)));
  }
  svg.append(draw("text", { x: width / 2, y: HEIGHT - 4, "text-anchor": "middle" }, "chunk"));
  for (const { chunks, place } of series) {
    for (const i of boundaries(chunks)) {
      svg.append(draw("line", { class: "boundary", x1: x(i - 0.5), x2: x(i - 0.5), y1: TOP, y2: HEIGHT - BOTTOM }));
    }
    const points = chunks.map((chunk, i) => [x(i), chunk.surprise, chunk.text]).filter(([, value]) => value !== null);
    svg.append(draw("path", { class: place, d: "M" + points.map(([at, value]) => `${at} ${y(value)}`).join("L") }));
    for (const [at, value, text] of points) svg.append(dot(place, at, y(value), `${value.toFixed(3)}: ${text}`));
  }
  return svg;
}

/** Chunks that open a segment, without the first. */
function boundaries(chunks) {
  return chunks.map((chunk, i) => i).filter(i => i && chunks[i].opens_segment);
}

function dot(place, x, y, words) {
  const [tag, form] = place === "first" ? ["circle", { cx: x, cy: y, r: 4 }]
    : ["rect", { x: x - 4, y: y - 4, width: 8, height: 8 }];
  return draw(tag, { ...form, class: `dot ${place}` }, draw("title", {}, words));
}

function spoken(series) {
  return series.map(({ name, chunks }) => {
    const highest = chunks.reduce((best, chunk, i) => chunk.surprise > (chunks[best].surprise ?? -1) ? i : best, 0);
    return `Surprise of ${name} over ${chunks.length} chunks, highest at chunk ${highest + 1}.`;
  }).join(" ");
}

function legend(series) {
  const names = series.map(({ name, place }) => make("li", { class: place }, name));
  const found = series.some(({ chunks }) => boundaries(chunks).length);
  return make("ul", { class: "legend" }, ...names, found ? make("li", { class: "boundary" }, "a topic may change here") : null);
}

function numbers(series, chunks) {
  const head = make("tr", {}, make("th", { scope: "col" }, "chunk"),
    ...series.map(({ name }) => make("th", { scope: "col" }, name)), make("th", { scope: "col" }, "text"));
  const rows = chunks.map((chunk, i) => make("tr", {}, make("td", {}, String(i + 1)),
    ...series.map(each => make("td", { class: "number" }, each.chunks[i].surprise?.toFixed(3) ?? "–")),
    make("td", {}, chunk.text)));
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...rows));
  const frame = { class: "scroll", tabindex: "0", role: "region", "aria-label": "As a table" };
  return make("details", {}, make("summary", {}, "As numbers"), make("div", frame, table));
}
