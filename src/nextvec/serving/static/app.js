// The form: asks the server about a text and shows what it said.

import { ask } from "./api.js";
import { surpriseCard } from "./curve.js";
import { make, modelCard, passageList } from "./parts.js";

const PLACES = ["first", "second"];
const SEARCHES = {
  last: "Passages near the last chunk of the text; no model is asked.",
  mean: "Passages near the mean of the last chunks; no model is asked.",
  "last-mean": "Passages near both the last chunk and the mean of the last ones; no model is asked.",
  blend: "Passages near both the last chunk and what the first model expects.",
};
const [form, text, model, other, strategy, passages, key, status, alerts, results] =
  ["ask", "text", "model", "other", "strategy", "passages", "key", "status", "alert", "results"]
    .map(id => document.getElementById(id));
const submit = form.querySelector("[type=submit]");
let models = new Map(), usual = null, running = null;

/** Ask for the models, and fill the choices with them. */
async function loadModels() {
  alerts.replaceChildren();
  try {
    const found = await ask("models", { key: key.value });
    models = new Map(found.data.map(each => [each.id, each]));
    usual = found.default;
  } catch (error) {
    say([error]);
    if (error.status === 401) key.focus();
    return;
  }
  const options = () => [...models.keys()].map(id => make("option", { value: id }, id));
  model.replaceChildren(...options());
  if (usual) model.value = usual;
  other.replaceChildren(other.options[0], ...options());
}

/** Show each message once. */
function say(errors) {
  const messages = new Set(errors.map(error => error.message));
  alerts.replaceChildren(...[...messages].map(message => make("p", {}, message)));
}

function busy(is) {
  submit.disabled = is;
  results.setAttribute("aria-busy", String(is));
}

/** All that the form asks for, at once. What failed is null, and why is in `errors`. */
async function gather(chosen, signal) {
  const errors = [];
  const post = (route, body) => ask(route, { body, key: key.value, signal }).catch(error => {
    if (error.name === "AbortError") throw error;
    if (error.code === "no_store" && body.passages) return post(route, { ...body, passages: 0 });
    errors.push(error);
    return null;
  });
  const input = text.value, count = passages.valueAsNumber, search = strategy.value;
  const [found, ...answers] = await Promise.all([
    post("retrieve", { text: input, model: chosen[0], strategy: search, n: count }),
    ...chosen.flatMap(id => [
      post("predict/text", { text: input, model: id, passages: count, attention: true }),
      post("surprise", { text: input, model: id }),
    ]),
  ]);
  const said = chosen.map((id, i) => ({ id, prediction: answers[2 * i], surprise: answers[2 * i + 1] }));
  return { found, search, said, errors };
}

function show({ found, search, said, errors }) {
  say(errors);
  const cards = said.map(({ id, prediction }, i) => modelCard(models.get(id), prediction, PLACES[i]));
  const series = said.map(({ id, surprise }, i) => ({ name: id, place: PLACES[i], chunks: surprise?.chunks }))
    .filter(({ chunks }) => chunks?.length);
  const beside = found && make("section", { class: "card", "aria-label": "For comparison" },
    make("h2", {}, "For comparison"),
    make("p", { class: "quiet" }, SEARCHES[search]),
    passageList(found.passages));
  results.replaceChildren(...curves(series), make("div", { class: "models" }, ...cards, beside));
}

/** One drawing, or one for each model where they cut the text in different places. */
function curves(series) {
  const cuts = new Set(series.map(({ chunks }) => chunks.map(({ start }) => start).join()));
  return (cuts.size === 1 ? [series] : series.map(each => [each])).map(surpriseCard);
}

async function predict(event) {
  event.preventDefault();
  if (!text.value.trim()) {
    say([{ message: "There is no text yet: paste a few sentences, or use the example." }]);
    text.focus();
    return;
  }
  if (!models.size) await loadModels();
  if (!models.size) return;
  running?.abort();
  const own = running = new AbortController();
  const chosen = [...new Set([model.value, other.value].filter(Boolean))], started = performance.now();
  status.textContent = `Asking ${chosen.join(" and ")} …`;
  busy(true);
  try {
    const answered = await gather(chosen, own.signal);
    if (own.signal.aborted) return;
    show(answered);
    const seconds = ((performance.now() - started) / 1000).toFixed(1);
    status.textContent = answered.errors.length ? "Not everything was answered." : `Answered in ${seconds} s.`;
  } catch (error) {
    if (error.name !== "AbortError") throw error; // a later question took its place
  } finally {
    if (running === own) busy(false);
  }
}

form.addEventListener("submit", predict);
text.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
key.addEventListener("change", loadModels);
document.getElementById("example").addEventListener("click", () => {
  text.value = document.getElementById("example-text").content.textContent;
  text.focus();
});
loadModels();
