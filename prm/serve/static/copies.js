// What can be taken along: the scores as JSON, the request as a command.

import { address, hasToken } from "./api.js";
import { h } from "./elements.js";
import { say } from "./messages.js";

/** The server's reply, with the records it answers. */
export function asJson({ records, reply }) {
  return JSON.stringify({ ...reply, records }, null, 2);
}

/** A command that asks for the same scores; a token is read from the environment. */
export function asCurl({ records, reply }, aggregationKey) {
  const aggregation = { [aggregationKey]: reply[aggregationKey] };
  const body = JSON.stringify({ model: reply.model, ...aggregation, records });
  const lines = [
    `curl ${address("v1/score")}`,
    "-H 'Content-Type: application/json'",
    hasToken() && '-H "Authorization: Bearer $PRM_TOKEN"',
    `-d '${body.replaceAll("'", "'\\''")}'`,
  ];
  return lines.filter(Boolean).join(" \\\n  ");
}

/** Put a text on the clipboard, or below the scores where the browser does not allow it. */
export async function copy(text, what) {
  try {
    await navigator.clipboard.writeText(text);
    say(`Copied ${what}.`);
  } catch {
    const box = h("textarea", {
      class: "copy",
      readonly: true,
      "aria-label": what,
      ".value": text,
    });
    document.getElementById("shown").append(box);
    box.select();
    say(`The browser does not allow copying: ${what} is selected below.`);
  }
}
