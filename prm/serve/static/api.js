// Requests to the server that the page came from.

let token = "";

export function setToken(text) {
  token = text.trim();
}

export function hasToken() {
  return token !== "";
}

/** What the server refused, in its own words. */
export class Refusal extends Error {
  constructor(status, problem, facts = [], retryAfter = null) {
    super(problem);
    this.status = status;
    this.facts = facts;
    this.retryAfter = retryAfter;
  }
}

/** The address of a path of the API, also where the page is served below a prefix. */
export function address(path) {
  return new URL(path, document.baseURI).href;
}

/** Ask the server: GET without a body, POST with one. Throws a `Refusal`. */
export async function ask(path, body, signal) {
  const headers = { Accept: "application/json" };
  if (body) headers["Content-Type"] = "application/json";
  if (token) headers.Authorization = `Bearer ${token}`;
  let response;
  try {
    response = await fetch(address(path), {
      method: body ? "POST" : "GET",
      headers,
      body: body && JSON.stringify(body),
      signal,
      credentials: "omit",
    });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Refusal(0, "The server cannot be reached. Is it still running?");
  }
  const text = await response.text();
  if (!response.ok) throw refusal(response, text);
  try {
    return JSON.parse(text);
  } catch {
    throw new Refusal(response.status, "The server's reply is not JSON.");
  }
}

function refusal(response, text) {
  const { status } = response;
  const retryAfter = response.headers.get("Retry-After");
  try {
    const { message, ...facts } = JSON.parse(text).error;
    return new Refusal(status, message, newFacts(message, facts), retryAfter);
  } catch {
    return new Refusal(status, text.slice(0, 500) || response.statusText, [], retryAfter);
  }
}

/** What the message does not say already. */
function newFacts(message, { expected, got, where, fix }) {
  const named = Object.entries({ expected, got, where, fix });
  return named
    .map(([name, fact]) => [name, typeof fact === "object" ? JSON.stringify(fact) : String(fact)])
    .filter(([name, fact]) => !["null", "undefined", ""].includes(fact) && !message.includes(fact));
}
