// What the page tells the reader beside the scores.

import { h, plural } from "./elements.js";

const $ = (id) => document.getElementById(id);

/** Say something in the line above the scores, also to a screen reader. */
export function say(text) {
  $("status").textContent = text;
}

export function showBusy(isBusy) {
  $("results").setAttribute("aria-busy", isBusy);
  $("score").setAttribute("aria-disabled", isBusy);
  $("cancel").classList.toggle("idle", !isBusy);
  $("example").classList.toggle("idle", isBusy);
}

export function clearError() {
  $("error").replaceChildren();
}

/** Show what the server refused, in its words; `again` is what a button then repeats. */
export function showError(error, { isStale = false, again } = {}) {
  const facts = (error.facts ?? []).map(([name, fact]) => [h("dt", name), h("dd", fact)]);
  const notes = [
    error.status > 0 && `HTTP ${error.status}.`,
    error.retryAfter && `Try again in ${plural(Number(error.retryAfter), "second")}.`,
    isStale && "What is shown below is from before.",
  ].filter(Boolean);
  const shown = h(
    "div.error",
    h("p", h("strong", error.message)),
    facts.length > 0 && h("dl", facts),
    notes.length > 0 && h("p.hint", notes.join(" ")),
    again && h("button.quiet", { type: "button", onclick: again }, "Try again"),
  );
  $("error").replaceChildren(shown);
  $("error").scrollIntoView({ block: "nearest" });
  say("The request was not answered.");
  if (error.status === 401) askForToken();
}

function askForToken() {
  $("access").open = true;
  $("token").focus();
}
