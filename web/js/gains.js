// How far each membrane acts on each prompt: what the events said, and the bars that show it.

import { element, list, record } from "./dom.js";
import { say } from "./words.js";

const MOST = 40; // prompts kept; a queue of hundreds of different ones would fill the page

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

function prompt(event) {
  const mode = ["approximate", "unjudged"].find((doubt) => doubt === event.mode);
  const marks = [event.negative && "negative", mode].filter(Boolean);
  const head = element("div", "membrane-prompt", [
    element("span", "membrane-words", event.text || say("empty.prompt"), event.text),
    ...marks.map((mark) => element("span", `membrane-mark membrane-${mark}`, say(mark), say(`${mark}.tip`))),
  ]);
  const rows = list(event.gains).map(list);
  const most = Math.max(1, ...rows.flat().map(Math.abs).filter(Number.isFinite));
  const bars = list(event.membranes).flatMap((name, i) => bar(name, rows.map((row) => row[i]), most));
  const none = mode === "unjudged" ? "passes" : "untouched";
  const shown = bars.length ? element("div", "membrane-bars", bars) : element("div", "membrane-hint", say(none));
  return element("section", "membrane-gains", [head, shown]);
}

/** One membrane: its name, a bar as long as the greatest gain, and the number, or the range where texts differ. */
function bar(name, values, most) {
  const found = values.filter(Number.isFinite);
  const [low, high] = [Math.min(...found), Math.max(...found)];
  const reach = found.length ? Math.max(Math.abs(low), Math.abs(high)) / most : 0;
  const fill = element("span", low < 0 ? "membrane-fill membrane-inverted" : "membrane-fill");
  fill.style.width = `${100 * reach}%`;
  const numbers = [...new Set([low, high].filter(Number.isFinite).map(digits))].join("–") || "–";
  const tooltip = found.length > 1 ? `${say("rows.tip")}: ${found.map(digits).join(", ")}` : "";
  return [
    element("span", reach ? "membrane-of" : "membrane-of membrane-off", name, String(name)),
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
  const { run, prompt: ident, text, negative, membranes, gains, mode } = record(detail);
  return {
    run: String(run ?? ""),
    prompt: String(ident ?? ""),
    text: String(text ?? ""),
    negative: Boolean(negative),
    membranes: list(membranes),
    gains: list(gains),
    mode: String(mode ?? ""),
  };
}
