// Pieces of the page. Whatever comes from the server is set as text, never as markup.

/** An element: make("li", { class: "quiet" }, "text", child, ...). Undefined and null children are left out. */
export function make(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same for drawings. */
export function draw(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children.filter(child => child !== undefined && child !== null));
  return element;
}

const figure = value => value.toFixed(3);
const percent = value => `${Math.round(100 * value)} %`;

/** Whether the line breaks of a text mean something: lines are indented, or end as statements do. */
const isCode = text => /\n[ \t]+\S|[;{}]\n/.test(text);
const written = text => isCode(text) ? make("code", {}, text) : text;

/** A ranked list of passages: text, cosine, where it stands. */
export function passageList(passages) {
  if (!passages.length) return make("p", { class: "quiet" }, "No passage was found.");
  return make("ol", { class: "passages" }, ...passages.map(passage => {
    const place = [passage.title || passage.doc_id, `chunk ${passage.position + 1}`, passage.source];
    if (typeof passage.probability === "number") place.push(`follows with ${percent(passage.probability)}`);
    return make("li", {}, written(passage.text), make("div", { class: "quiet" }, "cosine ",
      make("span", { class: "score" }, figure(passage.cosine)), ` · ${place.filter(Boolean).join(" · ")}`));
  }));
}

/** The chunks of the text, shaded by how much the model attended to each that it read: the most is darkest. */
function chunkList(chunks, attention) {
  const weights = (attention ?? []).values(), most = Math.max(...(attention ?? []));
  return make("ol", { class: "chunks" }, ...chunks.map(chunk => {
    if (!chunk.read) return make("li", { class: "unread" }, written(chunk.text));
    const weight = weights.next().value, item = make("li", {}, written(chunk.text));
    if (weight !== undefined) {
      item.dataset.weight = weight;
      item.style.setProperty("--shade", weight / most);
      item.prepend(make("span", { class: "score" }, percent(weight)));
    }
    return item;
  }));
}

/** What one model says of the text: passages, decoded text, what it attended to. */
export function modelCard(model, prediction, place) {
  const facts = [model.architecture, model.parameters && `${model.parameters.toLocaleString("en")} parameters`,
    `reads ${model.context} chunks at most`];
  const card = make("section", { class: `card ${place}`, "aria-label": `Prediction of ${model.id}` },
    make("h2", {}, model.id), make("p", { class: "quiet" }, facts.filter(Boolean).join(", ")));
  if (!prediction) {
    card.append(make("p", {}, "No prediction: the message above says why."));
    return card;
  }
  if (prediction.decoded) {
    card.append(make("h3", {}, "In words of its decoder"), make("p", {}, written(prediction.decoded.text)));
  }
  card.append(make("h3", {}, "Passages near what it expects next"));
  card.append(passageList(prediction.passages));
  if (prediction.confidence) card.append(make("p", { class: "quiet" }, confidence(prediction.confidence)));
  card.append(make("h3", {}, prediction.attention ? "What it attended to" : "What it read"));
  card.append(...prediction.notes.map(note => make("p", { class: "quiet" }, note)));
  card.append(chunkList(prediction.chunks, prediction.attention));
  return card;
}

function confidence({ kind, value }) {
  return kind === "continuation"
    ? `Probability that the best passage follows: ${percent(value)}.`
    : `Agreement of its samples: ${figure(value)} (cosine).`;
}
