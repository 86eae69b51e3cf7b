// The menu of aggregations: what they are called, what they say, which parameters they show.
// The computation is the server's alone (`/v1/reaggregate`).

import { short } from "./elements.js";

const beta = (value, max) => ({
  key: "beta",
  kind: "range",
  label: "Sharpness β",
  min: 0.1,
  max,
  step: 0.1,
  value,
});
const weights = { key: "weights", kind: "weights" };
const levels = (key, label, value, optional = false) => ({
  key,
  kind: "levels",
  label,
  value,
  optional,
});

// `bounded`: the reward is between 0 and 1.
export const STEP = [
  {
    name: "min",
    bounded: true,
    label: "Weakest step",
    says: "The probability of the weakest step. Fits labels that say whether a step is correct.",
    formula: () => "R = min p",
  },
  {
    name: "product",
    bounded: true,
    label: "Product",
    says: "The probability that all steps are correct. Longer chains score lower.",
    formula: () => "R = p₁ · p₂ · … · p_T",
  },
  {
    name: "mean",
    bounded: true,
    label: "Mean",
    says: "The mean step probability. One bad step hardly shows in a long chain.",
    formula: () => "R = (1/T) Σ p",
  },
  {
    name: "last",
    bounded: true,
    label: "Last step",
    says: "The probability of the last step. Fits labels from Monte Carlo rollouts.",
    formula: () => "R = p_T",
  },
  {
    name: "mean_logit",
    label: "Mean log-odds",
    says: "The mean of the steps' log-odds; on an open scale, not a probability.",
    formula: () => "R = (1/T) Σ logit(p)",
  },
  {
    name: "softmin",
    bounded: true,
    label: "Soft minimum",
    says: "Between the mean (β near 0) and the weakest step (β large).",
    fields: [beta(10, 50)],
    formula: (a) => `R = −(1/β) log mean exp(−β p), β = ${short(a.beta)}`,
  },
];

export const OBJECTIVE = [
  {
    name: "weighted_sum",
    label: "Weighted sum",
    says: "Trades objectives at fixed rates.",
    fields: [weights],
    formula: (a, names) => `R = ${sum(a.weights, names)}`,
  },
  {
    name: "geometric_mean",
    bounded: true,
    label: "Geometric mean",
    says: "High only where every objective is likely; between 0 and 1.",
    fields: [weights],
    formula: (a, names) => `R = Π p^(w/W), ${listed("w", a.weights, names)}`,
  },
  {
    name: "worst_case",
    label: "Worst case",
    says: "An answer is as good as its weakest objective.",
    formula: (a, names) => `R = min(${names.join(", ")})`,
  },
  {
    name: "soft_minimum",
    label: "Soft minimum",
    says: "Between the mean (β near 0) and the weakest objective (β large).",
    fields: [beta(1, 10)],
    formula: (a) => `R = −(1/β) log mean exp(−β u), β = ${short(a.beta)}`,
  },
  {
    name: "augmented_chebyshev",
    label: "Distance to an ideal",
    says: "The largest weighted distance to an ideal answer, and a little of all of them.",
    fields: [
      weights,
      levels("ideal", "Ideal", 3),
      {
        key: "augmentation",
        kind: "range",
        label: "Share of the sum",
        min: 0,
        max: 1,
        step: 0.01,
        value: 0.05,
      },
    ],
    formula: (a, names) =>
      `R = −max d − ${short(a.augmentation)} Σ d, d = w (ideal − u), ` +
      `${listed("w", a.weights, names)}, ${listed("ideal", a.ideal, names)}`,
  },
  {
    name: "log_sigmoid_sum",
    label: "Everything above a reference",
    says: "How likely everything is better than a reference: little gain in what is good already.",
    fields: [weights, levels("reference", "Reference", 0)],
    formula: (a, names) =>
      `R = Σ w log σ(u − reference), ${listed("w", a.weights ?? 1, names)}, ` +
      listed("reference", a.reference, names),
  },
  {
    name: "thresholded",
    label: "Thresholds first",
    says: "An answer that misses a threshold ranks below every answer that meets all of them.",
    fields: [levels("thresholds", "At least", 0, true), weights],
    formula: (a, names) =>
      `R = ${sum(a.weights, names)} where ${reached(a.thresholds)}; ` +
      `below ${short(a.floor ?? -10)} elsewhere`,
  },
  {
    name: "safety_gate",
    label: "Safety gate",
    says: "Helpfulness, unless the answer is unsafe.",
    minObjectives: 2,
    fields: [
      {
        key: "helpfulness",
        kind: "objective",
        label: "Counts for safe answers",
        hint: "helpfulness",
        place: 0,
      },
      { key: "safety", kind: "objective", label: "Read by the gate", hint: "safety", place: 1 },
      {
        key: "threshold",
        kind: "range",
        label: "Unsafe below probability",
        min: 0.01,
        max: 0.99,
        step: 0.01,
        value: 0.15,
      },
    ],
    formula: (a) =>
      `R = ${a.safety} where σ(${a.safety}) < ${short(a.threshold)}; ${a.helpfulness} elsewhere`,
  },
  {
    name: "lagrangian",
    label: "Constraint with a multiplier",
    says: "The other objectives, with a price on the constrained one.",
    minObjectives: 2,
    fields: [
      { key: "constrained", kind: "objective", label: "Constrained", hint: "safety", place: 1 },
      {
        key: "multiplier",
        kind: "range",
        label: "Multiplier λ",
        min: 0,
        max: 10,
        step: 0.1,
        value: 1,
      },
      { ...weights, except: "constrained" },
    ],
    formula: (a, names) =>
      `R = (${sum(
        a.weights,
        names.filter((name) => name !== a.constrained),
      )} + ` + `${short(a.multiplier)} · ${a.constrained}) / ${short(1 + a.multiplier)}`,
  },
  {
    name: "gated",
    label: "Weights from the prompt",
    says: "The model's gate reads the prompt and chooses the weights.",
    needsGates: true,
    formula: (a, names) => `R = ${names.map((name) => `gate · ${name}`).join(" + ")}`,
  },
];

/** What the spec does to the aggregated number before it is the reward; often nothing. */
export function shapingText({ shaping: { center = 0, scale = 1, squash = "none", clip = null } }) {
  const steps = [];
  if (center !== 0) steps.push(`minus ${short(center)}`);
  if (scale !== 1) steps.push(`divided by ${short(scale)}`);
  if (squash !== "none") steps.push(squash);
  if (clip) steps.push(`clipped to ${clip.map(short).join(" … ")}`);
  return steps.length > 0 ? `; then ${steps.join(", ")}` : "";
}

/** What an aggregation is called; one that the menu does not know keeps its own name. */
export function entryOf(menu, name) {
  return (
    menu.find((entry) => entry.name === name) ?? {
      name,
      label: name,
      says: "",
      formula: (a) => JSON.stringify(a),
    }
  );
}

/** The aggregation that a choice in the menu starts from, as the API takes it. */
export function start(entry, objectives, served, kept) {
  const values = { name: entry.name };
  for (const field of entry.fields ?? []) values[field.key] = initial(field, objectives, kept);
  if (served.name === entry.name) Object.assign(values, served);
  return spelledOut(entry, values, objectives);
}

function initial(field, objectives, kept) {
  if (field.kind === "weights") return kept;
  if (field.kind === "objective") {
    return objectives.includes(field.hint) ? field.hint : objectives[field.place];
  }
  if (field.kind !== "levels") return field.value;
  if (!field.optional) return field.value;
  return { [objectives.includes("safety") ? "safety" : objectives.at(-1)]: field.value };
}

/** Numbers that hold for all objectives are given one by one, so that each can be moved. */
function spelledOut(entry, values, objectives) {
  for (const { key, kind, except } of entry.fields ?? []) {
    if (kind === "weights") {
      const names = objectives.filter((name) => name !== values[except]);
      values[key] = byName(values[key] ?? equal(entry, names), names);
    }
    if (kind === "levels" && typeof values[key] === "number") {
      values[key] = byName(values[key], objectives);
    }
  }
  return values;
}

/** What absent weights mean: 1 each for the sum of logarithms, 1/K each for all others. */
function equal(entry, names) {
  return entry.name === "log_sigmoid_sum" ? 1 : 1 / names.length;
}

export function byName(value, names) {
  return Object.fromEntries(
    names.map((name) => [name, value?.[name] ?? (typeof value === "number" ? value : 1)]),
  );
}

function sum(weights, names) {
  const each = weights ?? 1 / names.length;
  const terms = names.map((name) => [each[name] ?? each, name]);
  return terms
    .map(([weight, name], index) => {
      const sign = weight < 0 ? (index ? " − " : "−") : index ? " + " : "";
      return `${sign}${short(Math.abs(weight))} · ${name}`;
    })
    .join("");
}

function listed(symbol, values, names) {
  if (values == null) return `equal ${symbol}`;
  if (typeof values === "number") return `${symbol} = ${short(values)}`;
  return `${symbol} = ${names.map((name) => `${short(values[name])} ${name}`).join(", ")}`;
}

function reached(thresholds) {
  return Object.entries(thresholds)
    .map(([name, level]) => `${name} ≥ ${short(level)}`)
    .join(" and ");
}
