// Several answers, the best first, each with its objectives or its steps.

import { h, letter, plural, short, signed } from "./elements.js";
import { marginText, order, rewardText } from "./rewards.js";
import { scale, stepList } from "./steps.js";

/** Several answers. The cards stay when they are ranked again, so nothing jumps or loses focus. */
export class Ranking {
  constructor(rows, texts, splits, model) {
    Object.assign(this, { texts, splits, model });
    this.cards = texts.map((text, index) => this.card(text, index));
    this.list = h("ol.ranking");
    this.legend = h("p.scale");
    this.show(rows);
  }

  get elements() {
    return [this.splits ? scale() : this.legend, this.list];
  }

  card(text, index) {
    const parts = {
      rank: h("span.rank"),
      margin: h("span.hint"),
      reward: h("strong"),
      reason: h("p.notice"),
      body: h("div"),
    };
    const title = h("div.title", h("h3", `Answer ${letter(index)}`), parts.margin);
    const reward = h("span.reward", h("span.hidden", "reward "), parts.reward);
    parts.card = h(
      "li.card",
      h("header", parts.rank, title, reward),
      parts.reason,
      !this.splits && folded(text),
      parts.body,
    );
    return parts;
  }

  show(rows) {
    const places = order(rows);
    const before = this.positions();
    const most = extent(rows);
    this.legend.textContent =
      "Bars: utility of each objective, more is better; " +
      `from ${signed(-most)} to ${signed(most)} for all answers.`;
    places.forEach((index, place) => {
      this.fill(this.cards[index], rows, places, place, most);
    });
    const current = [...this.list.children];
    const wanted = places.map((index) => this.cards[index].card);
    if (wanted.some((card, place) => card !== current[place])) this.list.append(...wanted);
    this.glide(before);
    return places;
  }

  fill(parts, rows, places, place, most) {
    const index = places[place];
    const row = rows[index];
    const ranked = row.reward != null;
    parts.card.dataset.answer = letter(index);
    parts.card.classList.toggle("best", ranked && place === 0);
    parts.rank.textContent = ranked ? place + 1 : "–";
    parts.margin.textContent = ranked ? ahead(rows, places, place, this.model) : "";
    parts.reward.textContent = rewardText(row, this.model);
    parts.reward.classList.toggle("none", !ranked);
    parts.reason.textContent = note(row, this.model, this.splits);
    parts.reason.hidden = parts.reason.textContent === "";
    const body = this.splits ? stepList(row, this.splits[index], this.model) : bars(row, most);
    parts.body.replaceChildren(body);
  }

  positions() {
    return new Map(this.cards.map(({ card }) => [card, card.getBoundingClientRect().top]));
  }

  /** Let cards move to their new places instead of jumping there. */
  glide(before) {
    if (matchMedia("(prefers-reduced-motion: reduce)").matches) return;
    for (const { card } of this.cards) {
      const moved = before.get(card) - card.getBoundingClientRect().top;
      if (!moved || !card.isConnected) continue;
      card.animate([{ transform: `translateY(${moved}px)` }, { transform: "none" }], {
        duration: 220,
        easing: "ease-out",
      });
    }
  }
}

function note(row, model, isChain) {
  if (row.reason) return `Not scored: ${row.reason}`;
  if (row.num_truncated === 0) return "";
  const cut = isChain ? `${plural(row.num_truncated, "step")} left out` : "the rest was left out";
  return `Cut off at ${model.max_length} tokens: ${cut}`;
}

function ahead(rows, places, place, model) {
  const next = places[place + 1];
  if (next === undefined || rows[next].reward == null) return "";
  const row = rows[places[place]];
  if (row.reward === rows[next].reward) return `tied with ${letter(next)}`;
  return `${marginText(row, rows[next], model)} ahead of ${letter(next)}`;
}

/** Half the width of the bars, in utilities: the same for all answers and objectives. */
function extent(rows) {
  const values = rows.flatMap((row) => Object.values(row.utilities ?? {}));
  return Math.max(1, ...values.filter((value) => value != null).map(Math.abs));
}

function bars(row, most) {
  return h(
    "dl.bars",
    Object.entries(row.utilities).map(([name, utility]) => {
      const text = utility == null ? "no score" : signed(utility);
      const value = h("dd", bar(utility, most), h("span.number", text), detail(row, name));
      return h("div.bar-row", h("dt", name), value);
    }),
  );
}

function bar(utility, most) {
  if (utility == null) return h("span.track");
  const share = `${(Math.abs(utility) / most) * 50}%`;
  const side = utility < 0 ? "low" : "high";
  return h("span.track", h("span.fill", { "data-side": side, "--share": share }));
}

/** What differs from the utility: the head's own score with its spread, and the prompt's gate. */
function detail(row, name) {
  const score = row.scores[name];
  const spread = row.spreads?.[name];
  const parts = [];
  if (score != null && (score !== row.utilities[name] || spread != null)) {
    parts.push(`head ${signed(score)}${spread == null ? "" : ` ± ${short(spread)}`}`);
  }
  if (row.gates?.[name] != null) parts.push(`gate ${short(row.gates[name])}`);
  return parts.length > 0 && h("span.hint.detail", parts.join(" · "));
}

/** A text of which a long one shows its beginning, with a button for the rest. */
function folded(text) {
  if (text.length <= 320 && text.split("\n").length <= 5) return h("p.text", text);
  const paragraph = h("p.text.folded", text);
  const button = h("button.quiet", { type: "button", "aria-expanded": "false" }, "Show all");
  button.addEventListener("click", () => {
    const isFolded = paragraph.classList.toggle("folded");
    button.textContent = isFolded ? "Show all" : "Show less";
    button.setAttribute("aria-expanded", String(!isFolded));
  });
  return h("div", paragraph, button);
}
