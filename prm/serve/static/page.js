// The page: it holds what was scored, and asks the server again when something changes.

import { OBJECTIVE, STEP, entryOf, shapingText } from "./aggregations.js";
import { ask, setToken } from "./api.js";
import { Collapse } from "./collapse.js";
import { asCurl, asJson, copy } from "./copies.js";
import { h, letter, plural } from "./elements.js";
import { CHAIN, answersFor } from "./examples.js";
import { Answers, complete, showCounts, split } from "./inputs.js";
import { clearError, say, showBusy, showError } from "./messages.js";
import { Ranking } from "./ranking.js";
import { order, rewardText } from "./rewards.js";
import { chainView } from "./steps.js";

const $ = (id) => document.getElementById(id);
const PAUSE_MS = 80; // between the last move of a slider and the request

const state = {
  models: [],
  model: null,
  mode: "steps", // or "answers"
  collapses: {}, // the controls, by the part of a request that they change
  scored: {}, // by mode: records, reply, the aggregation asked for, the view
  running: null, // the AbortController of the request that runs
  isScoring: false,
  timer: 0,
};

const answers = new Answers($("answers"), count);

function count() {
  showCounts(state.model, answers);
}

// Models

async function loadModels() {
  try {
    state.models = (await ask("v1/models")).models;
  } catch (error) {
    $("about").textContent = "The models of this server are not known yet.";
    showError(error, { again: loadModels });
    return;
  }
  $("model").replaceChildren(...state.models.map(({ name }) => h("option", { value: name }, name)));
  $("model").disabled = false;
  chooseModel();
}

function chooseModel() {
  stop();
  const model = state.models.find(({ name }) => name === $("model").value);
  Object.assign(state, { model, collapses: {}, scored: {} });
  $("about").textContent = about(model);
  document.querySelector("[name=mode][value=steps]").disabled = model.kind === "outcome";
  chooseMode(model.kind === "outcome" ? "answers" : state.mode);
  $("score").disabled = $("example").disabled = false;
}

function about({ kind, step_objectives: steps, objectives, max_length: most }) {
  const reads = [
    steps.length > 0 && `each step for ${steps.join(", ")}`,
    objectives.length > 0 && `whole answers for ${objectives.join(", ")}`,
  ];
  return (
    `${kind[0].toUpperCase()}${kind.slice(1)} model: scores ` +
    `${reads.filter(Boolean).join(" and ")}. Reads up to ${most} tokens.`
  );
}

// Modes

function chooseMode(mode) {
  stop();
  state.mode = mode;
  document.querySelector(`[name=mode][value=${mode}]`).checked = true;
  $("chain-field").hidden = mode !== "steps";
  $("answers-field").hidden = mode !== "answers";
  count();
  clearError();
  showCollapse();
  showScored();
  rerankIfChanged();
}

/** The part of a request that says how one number comes from steps, or from objectives. */
function aggregationKey() {
  const readsSteps = state.mode === "steps" || state.model.kind === "process";
  return readsSteps ? "step_aggregation" : "objective_aggregation";
}

function readsSteps() {
  return aggregationKey() === "step_aggregation";
}

function collapse() {
  return state.collapses[aggregationKey()];
}

function showCollapse() {
  const { model } = state;
  const key = aggregationKey();
  const objectives = readsSteps() ? model.step_objectives : model.objectives;
  $("results").dataset.reads = readsSteps() ? "steps" : "objectives";
  $("collapse-title").textContent = readsSteps()
    ? "From steps to one reward"
    : `From ${plural(objectives.length, "objective")} to one reward`;
  state.collapses[key] ??= new Collapse($("collapse"), {
    menu: readsSteps() ? STEP : OBJECTIVE,
    objectives,
    served: model[key],
    changed: aggregationChanged,
  });
  collapse().render();
}

// Scoring

function records() {
  const prompt = $("prompt").value;
  const chain = (text) => ({ prompt, completions: split(text, state.model.separator) });
  if (state.mode === "steps") return [chain($("chain").value)];
  if (readsSteps()) return answers.texts.map(chain);
  return answers.texts.map((response) => ({ prompt, response }));
}

async function score() {
  if ($("score").disabled || !complete(state.mode, answers)) return;
  const asked = { model: state.model.name, records: records() };
  const began = performance.now();
  say("Scoring…");
  const reply = await exchange("v1/score", asked, true);
  if (!reply) return;
  const took = Math.round(performance.now() - began);
  Object.assign(state.scored[state.mode], { records: asked.records });
  if (reply.results.some((row) => row.gates)) collapse().allowGates();
  showScored();
  const noun = state.mode === "steps" ? "chain" : "answer";
  say(`${plural(asked.records.length, noun)} scored in ${took} ms. ${summary()}`);
  if (matchMedia("(max-width: 60rem)").matches) $("status").scrollIntoView();
  rerankIfChanged();
}

/** Aggregate what was scored again: the server computes it, the model does not run. */
async function rerank() {
  const { results } = state.scored[state.mode].reply;
  const reply = await exchange("v1/reaggregate", { model: state.model.name, results });
  if (!reply) return;
  const { view } = state.scored[state.mode];
  if (view) view.show(reply.results);
  else showScored();
  showForce();
  const verb = state.mode === "steps" ? "Aggregated" : "Ranked";
  say(`${verb} again without running the model. ${summary()}`);
}

function aggregationChanged() {
  showForce();
  clearTimeout(state.timer);
  if (!state.isScoring) state.timer = setTimeout(rerankIfChanged, PAUSE_MS);
}

function rerankIfChanged() {
  const scored = state.scored[state.mode];
  if (scored && scored.chosen !== JSON.stringify(collapse().value)) rerank();
}

/** Ask with the chosen aggregation and keep the reply; nothing if it is no longer wanted. */
async function exchange(path, body, isScoring = false) {
  stop();
  const running = new AbortController();
  Object.assign(state, { running, isScoring });
  showBusy(true);
  const chosen = JSON.stringify(collapse().value);
  try {
    const reply = await ask(path, { ...body, ...chosenAggregation() }, running.signal);
    if (state.running !== running) return null;
    state.scored[state.mode] = { ...state.scored[state.mode], reply, chosen };
    if (collapse().isServed) serverHas(reply[aggregationKey()]);
    finish();
    clearError();
    return reply;
  } catch (error) {
    if (state.running !== running) return null;
    finish();
    showError(error, { isStale: state.mode in state.scored });
    return null;
  }
}

/** The aggregation as part of a request; none if it is the server's own. */
function chosenAggregation() {
  return collapse().isServed ? {} : { [aggregationKey()]: collapse().value };
}

/** Somebody may have changed the server's own aggregation since the page was loaded. */
function serverHas(aggregation) {
  const key = aggregationKey();
  if (JSON.stringify(aggregation) === JSON.stringify(state.model[key])) return;
  state.model[key] = aggregation;
  delete state.collapses[key];
  showCollapse();
  state.scored[state.mode].chosen = JSON.stringify(collapse().value);
}

function finish() {
  Object.assign(state, { running: null, isScoring: false });
  showBusy(false);
}

function stop() {
  clearTimeout(state.timer);
  state.running?.abort();
  finish();
}

// What is shown

function showScored() {
  const scored = state.scored[state.mode];
  $("copy-json").disabled = $("copy-curl").disabled = !scored;
  showForce();
  $("shown").replaceChildren(...(scored ? shown(scored) : [placeholder()]));
  say(scored ? summary() : "Nothing scored yet.");
}

function shown(scored) {
  const {
    records: asked,
    reply: { results },
  } = scored;
  if (state.mode === "steps") return chainView(results[0], asked[0].completions, state.model);
  const texts = asked.map(({ response }) => response);
  const splits = readsSteps() ? asked.map(({ completions }) => completions) : null;
  scored.view = new Ranking(results, texts, splits, state.model);
  return scored.view.elements;
}

function placeholder() {
  const text =
    state.mode === "steps"
      ? "Each step appears here with its score, and the first error is marked."
      : "The answers appear here, the best first.";
  return h("p.placeholder", text);
}

/** Say what the numbers below were computed with, in the words of the server's reply. */
function showForce() {
  const { menu, objectives, served, isServed } = collapse();
  const force = state.scored[state.mode]?.reply[aggregationKey()] ?? served;
  const formula = (a) => entryOf(menu, a.name).formula(a, objectives) + shapingText(state.model);
  const asServed = JSON.stringify(force) === JSON.stringify(served);
  $("formula").textContent = formula(force);
  $("force-note").textContent = asServed
    ? `${force.name}: what everyone gets from this server.`
    : `${force.name}, on this page only. Everyone else gets ${served.name}: ${formula(served)}.`;
  $("reset").disabled = isServed;
}

function summary() {
  const { results } = state.scored[state.mode].reply;
  if (state.mode === "steps") return `Reward ${rewardText(results[0], state.model)}.`;
  const ranked = order(results).filter((index) => results[index].reward != null);
  return ranked.length > 0 ? `Order: ${ranked.map(letter).join(", ")}.` : "No answer has a reward.";
}

// What the reader does

function fillExample() {
  if (state.mode === "steps") {
    $("prompt").value = CHAIN.prompt;
    $("chain").value = CHAIN.steps.join(state.model.separator);
  } else {
    const example = answersFor(state.model);
    $("prompt").value = example.prompt;
    answers.fill(example.answers);
  }
  count();
}

function cancel() {
  stop();
  say("Cancelled.");
}

function closeAccess() {
  $("access").open = false;
  $("access").querySelector("summary").focus();
}

for (const id of ["input", "collapse", "access-form"]) {
  $(id).addEventListener("submit", (event) => event.preventDefault());
}
$("input").addEventListener("submit", score);
$("model").addEventListener("change", chooseModel);
$("chain").addEventListener("input", count);
$("add").addEventListener("click", () => answers.add());
$("example").addEventListener("click", fillExample);
$("cancel").addEventListener("click", cancel);
$("reset").addEventListener("click", () => {
  collapse().reset();
  collapse().render();
  aggregationChanged();
});
$("token").addEventListener("change", () => {
  setToken($("token").value);
  if (!state.model) loadModels();
});
$("copy-json").addEventListener("click", () =>
  copy(asJson(state.scored[state.mode]), "the scores as JSON"),
);
$("copy-curl").addEventListener("click", () =>
  copy(asCurl(state.scored[state.mode], aggregationKey()), "the request as a curl command"),
);
for (const radio of document.querySelectorAll("[name=mode]")) {
  radio.addEventListener("change", () => chooseMode(radio.value));
}
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    score();
  }
  if (event.key !== "Escape") return;
  if (state.running) cancel();
  if ($("access").open) closeAccess();
});

loadModels();
