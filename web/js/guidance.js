// What a guidance term did at each step of the last runs: three lines over the progress of the run.

import { element, list, record } from "./dom.js";
import { say } from "./words.js";

const MOST = 4; // runs kept: before and after, or two samplers
const [WIDTH, HEIGHT, MARGIN] = [280, 90, 4];
const LINES = [
  ["density", "#0072b2"],
  ["gate.now", "#e69f00"],
  ["share", "#009e73"],
]; // colours that everybody can tell apart

/** The runs of the latest execution. */
export class Guidance {
  constructor() {
    this.runs = [];
    this.outdated = false; // a new execution has started; its first event clears what is shown
  }

  add(run) {
    if (this.outdated) this.runs = [];
    this.outdated = false;
    this.runs = [...this.runs, run].slice(-MOST);
  }

  /** Warnings first, then one plot for each run; empty before the first event. */
  elements() {
    const warnings = [...new Set(this.runs.map((run) => run.warning).filter(Boolean))];
    const said = warnings.map((text) => element("div", "membrane-warning", text));
    return [...said, ...this.runs.filter((run) => run.steps.length).map(plot)];
  }
}

function plot(run) {
  const [plain, further] = run.evaluations;
  const times = plain ? ((plain + further) / plain).toFixed(2) : "1";
  const most = Math.max(1, ...run.steps.flatMap((step) => step.slice(1)).filter(Number.isFinite));
  const keys = LINES.map(([name, colour]) => {
    const key = element("span", "membrane-key", say(name), say(`${name}.tip`));
    key.style.color = colour;
    return key;
  });
  return element("section", "membrane-entry", [
    element("span", "membrane-name", run.label, run.label),
    element("div", "membrane-aside", say("evaluations", plain + further, times, run.cfg), say("evaluations.tip")),
    picture(run.steps, most),
    element("div", "membrane-keys", [...keys, element("span", "membrane-aside", `0–${Number(most.toPrecision(3))}`)]),
  ]);
}

/** Lines and dots; where a value is not known a line is broken. */
function picture(steps, most) {
  const canvas = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, class: "membrane-plot", role: "img" });
  const x = (progress) => MARGIN + (WIDTH - 2 * MARGIN) * progress;
  const y = (value) => HEIGHT - MARGIN - ((HEIGHT - 2 * MARGIN) * value) / most;
  for (const part of [0, 0.5, 1]) {
    canvas.append(svg("line", { x1: x(0), x2: x(1), y1: y(part * most), y2: y(part * most), class: "membrane-grid" }));
  }
  LINES.forEach(([, colour], column) => {
    let path = "";
    let before = false;
    for (const step of steps) {
      const value = step[column + 1];
      const known = Number.isFinite(value);
      if (known) {
        path += `${before ? "L" : "M"}${x(step[0]).toFixed(1)} ${y(value).toFixed(1)}`;
        canvas.append(svg("circle", { cx: x(step[0]), cy: y(value), r: 1.5, fill: colour }));
      }
      before = known;
    }
    canvas.append(svg("path", { d: path, stroke: colour, fill: "none" }));
  });
  return canvas;
}

function svg(tag, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** The event's data with every field in its place, whatever the server left out. */
export function readGuidance(detail) {
  const { label, steps, cfg, evaluations, warning } = record(detail);
  const [plain, further] = list(evaluations).map(Number);
  return {
    label: String(label ?? ""),
    steps: list(steps).map(list).filter((step) => Number.isFinite(step[0])),
    cfg: Number(cfg ?? 1),
    evaluations: [plain || 0, further || 0],
    warning: String(warning ?? ""),
  };
}
