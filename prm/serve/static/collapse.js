// The panel that says how several numbers become one, and lets it be changed.

import { byName, entryOf, start } from "./aggregations.js";
import { h, short } from "./elements.js";

/**
 * The controls of one aggregation.
 *
 * Args: `menu` of aggregations, the `objectives` they read, the aggregation that is `served`, and
 * `changed`, called with the aggregation as the API takes it whenever it is edited.
 */
export class Collapse {
  constructor(form, { menu, objectives, served, changed }) {
    Object.assign(this, { form, menu, objectives, served, changed });
    this.hasGates = served.name === "gated";
    this.reset();
  }

  /** Back to what the server has. */
  reset() {
    this.weights = byName(1, this.objectives);
    this.choose(this.served.name);
    this.first = JSON.stringify(this.value);
  }

  get isServed() {
    return JSON.stringify(this.value) === this.first;
  }

  /** Gates came with the answers, so that they can be aggregated with. */
  allowGates() {
    this.hasGates = true;
    const option = this.form.querySelector('option[value="gated"]');
    if (option) option.disabled = false;
  }

  choose(name) {
    this.entry = entryOf(this.menu, name);
    this.value = start(this.entry, this.objectives, this.served, this.weights);
    this.weights = { ...this.weights, ...this.value.weights };
  }

  set(key, value) {
    this.value = { ...this.value, [key]: value };
    if (key === "weights") this.weights = { ...this.weights, ...value };
    this.changed();
  }

  render() {
    const fields = (this.entry.fields ?? []).flatMap((field) => FIELDS[field.kind](this, field));
    const says = h("p.hint.says", { id: "says" }, this.entry.says);
    this.form.replaceChildren(this.menuField(), says, ...fields);
  }

  menuField() {
    const entries = this.menu.includes(this.entry) ? this.menu : [...this.menu, this.entry];
    const options = entries.map((entry) => {
      const disabled = this.unusable(entry);
      const selected = entry === this.entry;
      const text = `${entry.label} (${entry.name})`;
      return h("option", { value: entry.name, selected, disabled }, text);
    });
    const choose = (event) => {
      this.choose(event.target.value);
      this.render();
      this.form.querySelector("#aggregation").focus();
      this.changed();
    };
    const attributes = { id: "aggregation", "aria-describedby": "says", onchange: choose };
    return row("Aggregation", h("select", attributes, options));
  }

  unusable(entry) {
    return Boolean(
      (entry.needsGates && !this.hasGates) || this.objectives.length < entry.minObjectives,
    );
  }
}

const FIELDS = {
  weights: weightFields,
  range: rangeField,
  objective: objectiveField,
  levels: levelFields,
};

function row(label, control, ...more) {
  return h("div.row", h("label", { for: control.id }, label), control, ...more);
}

function weightFields(panel, { key }) {
  const served = Object.values(panel.served.weights ?? {});
  const scale = { min: Math.min(0, ...served), max: Math.max(2, ...served), step: 0.05 };
  return Object.entries(panel.value[key]).map(([name, weight]) => {
    const moved = (value) => panel.set(key, { ...panel.value[key], [name]: value });
    return slider(`weight-${name}`, ["Weight of ", h("b", name)], scale, weight, moved);
  });
}

function rangeField(panel, field) {
  const value = panel.value[field.key];
  const scale = { ...field, max: Math.max(field.max, value) };
  const moved = (number) => panel.set(field.key, number);
  return slider(`parameter-${field.key}`, field.label, scale, value, moved);
}

function slider(id, label, { min, max, step }, value, moved) {
  const number = h("span.value", { "aria-hidden": "true" }, short(value));
  const move = (event) => {
    number.textContent = short(event.target.valueAsNumber);
    moved(event.target.valueAsNumber);
  };
  const attributes = { type: "range", id, min, max, step, ".value": value, oninput: move };
  return row(label, h("input", attributes), number);
}

function objectiveField(panel, { key, label }) {
  const id = `parameter-${key}`;
  const choose = (event) => {
    panel.set(key, event.target.value);
    if (panel.entry.fields.some(({ except }) => except === key)) {
      const names = panel.objectives.filter((name) => name !== event.target.value);
      panel.set("weights", byName(panel.weights, names));
      panel.render();
      panel.form.querySelector(`#${id}`).focus();
    }
  };
  const options = panel.objectives.map((name) =>
    h("option", { value: name, selected: name === panel.value[key] }, name),
  );
  return row(label, h("select", { id, onchange: choose }, options));
}

function levelFields(panel, { key, label, optional }) {
  return panel.objectives.map((name) => {
    const change = (event) => {
      const { [name]: _, ...others } = panel.value[key];
      const level = event.target.valueAsNumber;
      panel.set(key, Number.isFinite(level) ? { ...others, [name]: level } : others);
    };
    const attributes = { type: "number", id: `${key}-${name}`, step: "any", oninput: change };
    const shown = { placeholder: optional ? "none" : "", ".value": panel.value[key][name] ?? "" };
    return row([`${label}: `, h("b", name)], h("input", { ...attributes, ...shown }));
  });
}
