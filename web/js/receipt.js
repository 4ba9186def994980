// What a node did, as it reports after it ran: receipts of applied membranes, contents of a file, or plain text.

import { element, list, record } from "./dom.js";
import { prompt, readEvent } from "./gains.js";
import { say } from "./words.js";

const MANY = 3; // more entries than this are folded, so that a long list stays a list

/** Warnings of all entries, for the top of the panel. */
export function warnings(report) {
  const entries = list(report.entries).map(record);
  return entries.flatMap((entry) =>
    list(entry.warnings).map((text) => {
      const name = entries.length > 1 && entry.name ? [element("b", "", `${entry.name}: `)] : [];
      return element("div", "membrane-warning", [...name, document.createTextNode(String(text))]);
    }),
  );
}

/** The body of a report; its kind is "receipt", "file" or "text". */
export function body(report) {
  if (report.kind === "text") {
    const answer = report.gains ? [prompt(readEvent(report.gains))] : [];
    return [...answer, element("div", "membrane-text", report.text ?? "")];
  }
  const entries = list(report.entries).map(record);
  if (!entries.length) return [element("div", "membrane-hint", say("empty"))];
  return entries.map((entry) => block(entry, report.kind === "file" ? lines(entry) : facts(entry), entries));
}

function block(entry, grid, all) {
  const rest = [grid, ...list(entry.notes).map((note) => element("div", "membrane-note", note))];
  const name = element("span", "membrane-name", entry.name || "–", entry.name);
  if (all.length <= MANY) return element("section", "membrane-entry", [name, ...rest]);
  const summary = element("summary", "", [name, element("span", "membrane-aside", aside(entry))]);
  return element("details", "membrane-entry", [summary, ...rest]);
}

/** What is worth knowing of a folded entry. */
function aside(entry) {
  return known(entry.matched) ? `${say("layers.of", entry.matched, entry.total ?? "?")} ${say("layers")}` : "";
}

function fact([label, value, tooltip]) {
  return [element("span", "membrane-label", label, tooltip), element("span", "membrane-value", value, tooltip)];
}

/** Short values of a receipt, two to a line. */
function facts(entry) {
  const { matched, total, rank, norm, drift, act_on, strength, gate, family, start, end } = entry;
  const whole = !known(start) || !known(end) || (start === 0 && end === 1);
  const values = {
    layers: known(matched) ? say("layers.of", matched, total ?? "?") : null,
    rank: known(rank) ? rank : null,
    norm: known(norm) ? short(norm) : null,
    drift: known(drift) ? percent(drift) : null,
    act_on,
    strength: known(strength) ? short(strength) : null,
    gate,
    part: whole ? null : `${short(start)}–${short(end)}`,
    family,
  };
  const shown = Object.entries(values).filter(([, value]) => value != null && value !== "");
  return element("div", "membrane-facts", shown.flatMap(([key, value]) => fact([say(key), value, say(`${key}.tip`)])));
}

/** What the server says of a file, a line each; strength and gate stand in the node's own fields already. */
function lines(entry) {
  const told = list(entry.lines).map((line) => [list(line)[0] ?? "", list(line)[1] ?? ""]);
  return element("div", "membrane-lines", told.flatMap(fact));
}

function known(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** A number with three digits that count; anything else as it is. */
function short(value) {
  return known(value) ? String(Number(value.toPrecision(3))) : String(value);
}

function percent(value) {
  return `${short(value * 100)} %`;
}
