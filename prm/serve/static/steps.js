// A chain: its steps with their scores, and the first error.

import { h, plural, probability, short, sign } from "./elements.js";
import { rewardText } from "./rewards.js";

const CUTOFF = 0.5; // a step below it is an error, as in the row's `first_error`

/** One chain: its reward, its first error and its steps. */
export function chainView(row, steps, model) {
  return [
    h("div.summary", reward(row, model), verdict(row)),
    row.reason && h("p.notice", `Not scored: ${row.reason}`),
    scale(),
    stepList(row, steps, model),
    otherScores(row, model),
  ].filter(Boolean);
}

function reward(row, model) {
  const text = rewardText(row, model);
  if (row.reward == null) return h("p.reward", h("span.label", "Reward"), h("strong.none", text));
  const scored = row.step_probabilities[model.reward_objective].filter((p) => p != null);
  const origin = `${row.aggregation} of ${plural(scored.length, "step")}`;
  return h("p.reward", h("span.label", "Reward"), h("strong", text), h("span.hint", origin));
}

function verdict({ first_error: first }) {
  if (first == null) return h("p.verdict", "First error: unknown, not every step was scored");
  if (first < 0) return h("p.verdict.fine", sign("✓ "), `No step below ${CUTOFF}`);
  return h("p.verdict.wrong", sign("⚑ "), `First error: step ${first + 1}`);
}

/** What the colors mean. */
export function scale() {
  return h("p.scale", h("span", "0 wrong"), h("span.ramp"), h("span", "1 right"));
}

/** The steps in order, each with its score as number, length and color. */
export function stepList(row, steps, model) {
  const items = steps.map((text, index) => {
    const why = whyNot(row, index, steps, model);
    return stepItem(text, index, why, row, model);
  });
  return h("ol.steps", items);
}

function stepItem(text, index, why, row, model) {
  const p = row.step_probabilities[model.reward_objective][index];
  const isFirst = row.first_error === index;
  return h(
    isFirst ? "li.step.first-error" : "li.step",
    colors(p),
    h("span.place", sign(index + 1)),
    h(
      "div",
      h("p.text", text),
      isFirst && h("p.flag", sign("⚑ "), "First error"),
      otherSteps(row, index, model),
      p == null && h("p.hint", `not scored: ${why}`),
    ),
    h("span.score", h("span.hidden", "score "), chance(p), h("span.meter")),
  );
}

/** Which side of one half a probability is on, and how far. */
function colors(p) {
  if (p == null) return { "data-side": "none", "--strength": "0%", "--p": 0 };
  const strength = Math.round(Math.abs(p - 0.5) * 200);
  return { "data-side": p < CUTOFF ? "low" : "high", "--strength": `${strength}%`, "--p": p };
}

function otherSteps(row, index, model) {
  const others = model.step_objectives.filter((name) => name !== model.reward_objective);
  if (others.length === 0) return null;
  const texts = others.map((name) => `${name} ${chance(row.step_probabilities[name][index])}`);
  return h("p.hint", texts.join(" · "));
}

function otherScores(row, model) {
  const others = Object.entries(row.scores).filter(([name]) => name !== model.reward_objective);
  if (others.length === 0) return null;
  const texts = others.map(([name, score]) => `${name} ${score == null ? "none" : short(score)}`);
  return h("p.hint", `${row.aggregation} of the others: ${texts.join(" · ")}`);
}

function chance(p) {
  return p == null ? "none" : probability(p);
}

function whyNot(row, index, steps, model) {
  if (index >= steps.length - row.num_truncated) return `cut off at ${model.max_length} tokens`;
  return row.reason || "the model gave no number";
}
