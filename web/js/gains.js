// How far each membrane acts on each prompt: what the events said, and the bars that show it.

import { element, list, record } from "./dom.js";
import { say } from "./words.js";

const MOST = 40; // prompts kept; a queue of hundreds of different ones would fill the page
const MANY = 8; // more membranes than this: the open ones stand on top, the closed ones are folded

/** The prompts of the latest execution. Several samplings of it (before and after, two prompts) stay side by side. */
export class Gains {
  constructor() {
    this.prompts = [];
    this.outdated = false; // a new execution has started; its first event clears what is shown
  }

  /** Takes an event. A later sampling with the same text replaces the earlier one. */
  add(event) {
    if (this.outdated) this.prompts = [];
    this.outdated = false;
    const same = (other) => other.run === event.run && other.prompt === event.prompt;
    const repeated = (other) =>
      other.run !== event.run && other.text === event.text && other.negative === event.negative;
    const at = this.prompts.findIndex((other) => same(other) || repeated(other));
    this.prompts = this.prompts.filter((other) => !same(other) && !repeated(other));
    this.prompts.splice(at < 0 ? this.prompts.length : at, 0, event);
    this.prompts = this.prompts.slice(-MOST);
  }

  /** Elements, negative prompts last; empty before the first event. */
  elements() {
    if (!this.prompts.length) return [];
    const ordered = [...this.prompts].sort((a, b) => Boolean(a.negative) - Boolean(b.negative));
    return [element("div", "membrane-heading", say("gains"), say("gains.tip")), ...ordered.map(prompt)];
  }
}

/** One prompt and its bars, as an element; the event is of {@link readEvent}'s form. */
export function prompt(event) {
  const mode = ["approximate", "unjudged"].find((doubt) => doubt === event.mode);
  const marks = [event.negative && "negative", mode].filter(Boolean);
  const head = element("div", "membrane-prompt", [
    element("span", "membrane-words", event.text || say("empty.prompt"), event.text),
    ...marks.map((mark) => element("span", `membrane-mark membrane-${mark}`, say(mark), say(`${mark}.tip`))),
  ]);
  const rows = list(event.gains).map(list);
  const most = Math.max(1, ...rows.flat().map(Math.abs).filter(Number.isFinite));
  const all = list(event.membranes).map((name, i) => ({ name, gate: event.gates[i], values: rows.map((row) => row[i]) }));
  const none = mode === "unjudged" ? "passes" : "untouched";
  if (!all.length) return element("section", "membrane-gains", [head, element("div", "membrane-hint", say(none))]);
  if (all.length <= MANY) return element("section", "membrane-gains", [head, bars(all, most)]);
  const reach = ({ values }) => Math.max(0, ...values.map(Math.abs).filter(Number.isFinite));
  const open = all.filter((one) => reach(one) > 0).sort((a, b) => reach(b) - reach(a));
  const closed = all.filter((one) => reach(one) === 0);
  const parts = open.length ? [bars(open, most)] : [];
  return element("section", "membrane-gains", [head, ...parts, ...skipped(closed, open.length)]);
}

function bars(membranes, most) {
  return element("div", "membrane-bars", membranes.flatMap(({ name, gate, values }) => bar(name, gate, values, most)));
}

/** Membranes that did nothing to this prompt, folded: how many, which, and why. */
function skipped(closed, open) {
  if (!closed.length) return [];
  const names = closed.map(({ name, gate }) =>
    element("div", "membrane-skipped", [
      element("span", "membrane-of membrane-off", name, String(name)),
      element("span", "membrane-aside", gate ? say(`why.${gate}`) : ""),
    ]),
  );
  const summary = element("summary", "", say("closed", closed.length, open + closed.length), say("closed.tip"));
  return [element("details", "membrane-entry", [summary, ...names])];
}

/** One membrane: its name, a bar as long as the greatest gain, and the number, or the range where texts differ. */
function bar(name, gate, values, most) {
  const found = values.filter(Number.isFinite);
  const [low, high] = [Math.min(...found), Math.max(...found)];
  const reach = found.length ? Math.max(Math.abs(low), Math.abs(high)) / most : 0;
  const fill = element("span", low < 0 ? "membrane-fill membrane-inverted" : "membrane-fill");
  fill.style.width = `${100 * reach}%`;
  const numbers = [...new Set([low, high].filter(Number.isFinite).map(digits))].join("–") || "–";
  const tooltip = found.length > 1 ? `${say("rows.tip")}: ${found.map(digits).join(", ")}` : "";
  const why = reach || !gate ? "" : `: ${say(`why.${gate}`)}`;
  return [
    element("span", reach ? "membrane-of" : "membrane-of membrane-off", name, `${name}${why}`),
    element("span", "membrane-track", [fill]),
    element("span", reach ? "membrane-number" : "membrane-number membrane-off", numbers, tooltip),
  ];
}

/** Two decimals; a gain that is not 0 never looks like it. */
function digits(value) {
  if (value === 0) return "0";
  return Math.abs(value) < 0.005 ? value.toExponential(0) : value.toFixed(2);
}

/** The event's data with every field in its place, whatever the server left out. */
export function readEvent(detail) {
  const { run, prompt: ident, text, negative, membranes, gates, gains, mode } = record(detail);
  return {
    run: String(run ?? ""),
    prompt: String(ident ?? ""),
    text: String(text ?? ""),
    negative: Boolean(negative),
    membranes: list(membranes),
    gates: list(gates),
    gains: list(gains),
    mode: String(mode ?? ""),
  };
}
