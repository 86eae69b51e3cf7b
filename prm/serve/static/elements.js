// Elements and numbers, the way the page writes them.

/**
 * Make an element, such as `h("p.hint", "text")` or `h("input", { id: "name", ".value": "" })`.
 *
 * Attributes come first, if there are any: event listeners are named `onclick`, properties
 * `.value`, custom properties of the style `--share`. Children that are false or null are left out.
 */
export function h(selector, ...parts) {
  const [tag, ...classes] = selector.split(".");
  const element = document.createElement(tag);
  if (classes.length > 0) element.className = classes.join(" ");
  if (isAttributes(parts[0])) setAttributes(element, parts.shift());
  element.append(...parts.flat(Infinity).filter((child) => child != null && child !== false));
  return element;
}

function isAttributes(part) {
  return part?.constructor === Object;
}

function setAttributes(element, attributes) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.startsWith(".")) element[name.slice(1)] = value;
    else if (name.startsWith("--")) element.style.setProperty(name, value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
}

/** A sign that is seen and not read out. */
export function sign(text) {
  return h("span", { "aria-hidden": "true" }, text);
}

/** A probability with three decimals, never rounded to a certainty that it is not. */
export function probability(p) {
  if (p > 0 && p < 0.0005) return "<0.001";
  if (p < 1 && p >= 0.9995) return ">0.999";
  return p.toFixed(3);
}

/** A number on an open scale: with its sign, and a true minus. */
export function signed(value) {
  if (Math.abs(value) >= 1e5) return value.toExponential(2).replace("-", "−");
  const text = Math.abs(value).toFixed(2);
  return (value < 0 && Number(text) !== 0 ? "−" : "+") + text;
}

/** A parameter as short as it can be written. */
export function short(value) {
  return String(Number(value.toFixed(3))).replace("-", "−");
}

export function plural(count, noun) {
  return `${count} ${noun}${count === 1 ? "" : "s"}`;
}

/** A, B, … Z, AA, AB, … */
export function letter(index) {
  const rest = Math.floor(index / 26);
  return (rest ? letter(rest - 1) : "") + String.fromCharCode(65 + (index % 26));
}
