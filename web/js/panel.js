// The panel of one node: a DOM widget, because both of the host's renderers show those.

import { app } from "../../../scripts/app.js";
import { element, list, record } from "./dom.js";
import { Gains } from "./gains.js";
import { Guidance } from "./guidance.js";
import { body, warnings } from "./receipt.js";
import { say } from "./words.js";

const TALLEST = 360; // pixels before a panel scrolls
const MARGIN = 10; // the host's own around a DOM widget on the canvas
const WIDTH = 320; // of a new node, so that names and numbers have room

/** What each kind of node promises before its first run. */
const HINTS = {
  MembraneErase: "hint.acts",
  MembraneTrain: "hint.acts",
  MembraneApply: "hint.acts",
  MembraneFirewall: "hint.guards",
  MembraneLoad: "hint.load",
  MembraneSave: "hint.save",
  MembraneInspect: "hint.inspect",
  MembraneNegativeGuidance: "hint.guides",
  MembraneAttentionNegative: "hint.steers",
  MembraneTextSteer: "hint.rewrites",
};

/** Whether a node of this class has a panel. */
export function hasPanel(comfyClass) {
  return comfyClass in HINTS;
}

/** Whether events will follow: what is baked into weights, and membranes that are off, send none. */
function reportsGains(report) {
  return list(report.entries).some((entry) => /text|layers/.test(entry?.act_on) && entry.strength !== 0);
}

export class Panel {
  constructor(node) {
    this.node = node;
    this.report = null;
    this.gains = new Gains();
    this.guidance = new Guidance();
    this.measured = 40; // height of the content when it was last laid out
    this.fitted = null; // height of the node as this panel has set it; null: as somebody chose it
    this.content = element("div", "membrane-content");
    this.element = element("div", "membrane-panel", [this.content]);
    this.element.tabIndex = 0; // scrolls by keyboard, and by wheel once it was clicked
    this.element.dataset.captureWheel = "true"; // the host's Nodes 2.0 then leaves the wheel to it
    this.element.addEventListener("wheel", (event) => this._wheel(event));
    const widget = node.addDOMWidget("membrane_panel", "membrane-panel", this.element, {
      serialize: false, // not part of the prompt
      hideOnZoom: false,
      margin: MARGIN,
      getMinHeight: () => this.height(),
    });
    widget.serialize = false; // nor of the workflow's stored values
    if (node.size[0] < WIDTH) node.setSize([WIDTH, node.size[1]]);
    new ResizeObserver(() => this.fit()).observe(this.content);
    this.draw();
  }

  /** What the host reserves on the canvas; nothing while panels are hidden. */
  height() {
    if (getComputedStyle(this.element).display === "none") return 0;
    // Before the host has given it its width, text breaks into far too many lines, and nodes never shrink again.
    const placed = this.content.offsetWidth > this.node.size[0] - 4 * MARGIN;
    if (placed && this.content.offsetHeight) this.measured = this.content.offsetHeight + 2;
    return Math.min(this.measured, TALLEST) + 2 * MARGIN;
  }

  /** The node has run. */
  show(report) {
    const changed = JSON.stringify(report) !== JSON.stringify(this.report);
    if (changed && this.gains.outdated) this.gains = new Gains(); // they were another erasure's
    this.report = record(report);
    this.draw();
  }

  /** A prompt was judged. */
  addGains(event) {
    this.gains.add(event);
    this.draw();
  }

  /** A sampling has ended. */
  addGuidance(run) {
    this.guidance.add(run);
    this.draw();
  }

  /** A new execution has begun: what its events say takes the place of what is shown. */
  outdate() {
    this.gains.outdated = true;
    this.guidance.outdated = true;
  }

  /** Takes over what another panel of the same node showed: undo and tab changes build all nodes anew. */
  restore(other) {
    this.report = other.report;
    this.gains = other.gains;
    this.guidance = other.guidance;
    this.draw();
  }

  draw() {
    this.content.replaceChildren(...this._parts());
  }

  /** Makes room for the content on the canvas; Nodes 2.0 does so itself. A node that was made taller stays so. */
  fit() {
    const { node } = this;
    if (!node.graph || this._insideNode()) return;
    const [height, needed] = [node.size[1], node.computeSize()[1]];
    if (needed > height || (height === this.fitted && needed < height)) {
      node.setSize([node.size[0], needed]);
      this.fitted = needed;
    }
    node.graph.setDirtyCanvas(true, true);
  }

  _parts() {
    const report = this.report;
    const gains = [...this.gains.elements(), ...this.guidance.elements()];
    if (!report && !gains.length) return [element("div", "membrane-hint", say(HINTS[this.node.comfyClass] ?? ""))];
    if (!report) return gains;
    const waiting = reportsGains(report) && !gains.length ? [element("div", "membrane-hint", say("waiting"))] : [];
    return [...warnings(report), ...gains, ...body(report), ...waiting];
  }

  /** On the canvas a panel with nothing to scroll must not stop the wheel from zooming. */
  _wheel(event) {
    const canvas = app.canvas?.canvas;
    const scrolls = this.element.scrollHeight > this.element.clientHeight + 1;
    if (!canvas || this._insideNode() || (scrolls && !event.ctrlKey)) return;
    event.preventDefault();
    canvas.dispatchEvent(new WheelEvent("wheel", event));
  }

  /** Whether Nodes 2.0 shows the panel, as a part of the page and not above the canvas. */
  _insideNode() {
    return this.element.closest(".lg-node") !== null;
  }
}
