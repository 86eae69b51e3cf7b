// What the reader writes: the prompt, a chain, answers.

import { h, letter, plural } from "./elements.js";

const $ = (id) => document.getElementById(id);

/** The steps of a text: parts between separators, trimmed, without empty ones. */
export function split(text, separator) {
  return text
    .split(separator)
    .map((part) => part.trim())
    .filter(Boolean);
}

function separatorHint(separator) {
  if (separator === "\n") return "one step per line";
  if (separator === "\n\n") return "a blank line between steps";
  return `${JSON.stringify(separator)} between steps`;
}

/** The list of answers, of which there is always at least one. */
export class Answers {
  constructor(holder, changed) {
    Object.assign(this, { holder, changed });
    this.show(["", ""]);
  }

  get boxes() {
    return [...this.holder.querySelectorAll("textarea")];
  }

  get texts() {
    return this.boxes.map((box) => box.value);
  }

  show(texts) {
    this.holder.replaceChildren(...texts.map((text, index) => this.box(text, index)));
  }

  fill(texts) {
    this.show(texts);
    this.changed();
  }

  add() {
    this.fill([...this.texts, ""]);
    this.boxes.at(-1).focus();
  }

  remove(index) {
    this.fill(this.texts.filter((_, other) => other !== index));
    this.boxes[Math.min(index, this.boxes.length - 1)].focus();
  }

  box(text, index) {
    const id = `answer-${index}`;
    const problem = `${id}-problem`;
    const name = `Answer ${letter(index)}`;
    const remove = () => this.remove(index);
    return h(
      "div.field",
      h(
        "div.caption",
        h("label", { for: id }, name),
        h("span.hint.count"),
        h("span.problem", { id: problem }),
        h(
          "button.quiet.remove",
          { type: "button", "aria-label": `Remove ${name}`, onclick: remove },
          "Remove",
        ),
      ),
      h("textarea", {
        id,
        rows: 4,
        ".value": text,
        "aria-describedby": problem,
        oninput: this.changed,
      }),
    );
  }
}

/** Say how many steps or characters each text has. */
export function showCounts(model, answers) {
  if (!model) return;
  const { separator } = model;
  const steps = (box) =>
    `${separatorHint(separator)} · ${plural(split(box.value, separator).length, "step")}`;
  $("chain-hint").textContent = steps($("chain"));
  const readsSteps = model.kind === "process";
  answers.boxes.forEach((box) => {
    const count = box.closest(".field").querySelector(".count");
    count.textContent = readsSteps ? steps(box) : plural(box.value.length, "character");
  });
  for (const button of document.querySelectorAll(".remove"))
    button.hidden = answers.boxes.length < 2;
}

/** What is missing, said at its place; true if nothing is. */
export function complete(mode, answers) {
  const boxes = mode === "steps" ? [$("chain")] : answers.boxes;
  const empty = [$("prompt"), ...boxes].filter((box) => !box.value.trim());
  for (const box of [$("prompt"), $("chain"), ...answers.boxes]) {
    const isEmpty = empty.includes(box);
    box.setAttribute("aria-invalid", isEmpty);
    $(`${box.id}-problem`).textContent = isEmpty ? request(box.id) : "";
  }
  empty[0]?.focus();
  return empty.length === 0;
}

function request(id) {
  if (id === "prompt") return "Please write or paste it.";
  if (id === "chain") return "Please write at least one step.";
  return "Please write it, or remove it.";
}
