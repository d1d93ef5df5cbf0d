// Requests to the server that this page came from.

const WORDS = {
  401: "This server asks for an API key. Put it into the field above.",
  404: "The server does not know this model.",
  413: "The text is too long for this server.",
  504: "The server did not finish in time. Try a shorter text.",
};

export class Failure extends Error {
  constructor(message, status, code) {
    super(message);
    Object.assign(this, { status, code });
  }
}

/** The JSON of a route below v1/. Throws Failure with a message to show. */
export async function ask(route, { body, key, signal } = {}) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(new URL(`v1/${route}`, document.baseURI), {
      method: body ? "POST" : "GET", headers, signal, body: body && JSON.stringify(body),
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure("The server cannot be reached. Is it still running?", 0);
  }
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Failure(inWords(answer, found?.error), answer.status, found?.error?.code);
  if (found === null) throw new Failure("The server gave an answer that cannot be read.", answer.status);
  return found;
}

function inWords(answer, error) {
  if (answer.status === 429 || answer.status === 503) {
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    return `The server is busy. Try again in ${seconds} second${seconds === 1 ? "" : "s"}.`;
  }
  if (WORDS[answer.status]) return WORDS[answer.status];
  if (!error?.message) return `The server failed (${answer.status}).`;
  return [error.message, error.remedy].filter(Boolean).map(sentence).join(" ");
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}
