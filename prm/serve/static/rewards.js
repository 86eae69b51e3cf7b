// Rewards as they are written, and the order that they make.

import { OBJECTIVE, STEP, entryOf, shapingText } from "./aggregations.js";
import { probability, signed } from "./elements.js";

/** The reward as it is written: a probability, or a number on an open scale. */
export function rewardText(row, model) {
  if (row.reward == null) return "none";
  return isBounded(row, model) ? probability(row.reward) : signed(row.reward);
}

/** By how much one row is ahead of another. */
export function marginText(row, next, model) {
  const margin = row.reward - next.reward;
  return isBounded(row, model) ? probability(margin) : signed(margin).slice(1);
}

function isBounded(row, model) {
  if (shapingText(model)) return false;
  const menu = "step_logits" in row ? STEP : OBJECTIVE;
  return entryOf(menu, row.aggregation).bounded === true;
}

/** The answers in order of their reward, those without one last. */
export function order(rows) {
  const indices = rows.map((_, index) => index);
  const value = (index) => rows[index].reward ?? -Infinity;
  return indices.sort((a, b) => value(b) - value(a) || a - b);
}
