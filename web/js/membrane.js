// Membrane's part of the page: a panel on each node that acts on a model or a file.

import { app } from "../../../scripts/app.js";
import { api } from "../../../scripts/api.js";
import { list, loadStyle } from "./dom.js";
import { readEvent } from "./gains.js";
import { readGuidance } from "./guidance.js";
import { hasPanel, Panel } from "./panel.js";
import { useLanguage } from "./words.js";

const SHOW = "Membrane.Panel.Show";
const panels = new WeakMap(); // node -> panel
const latest = new Map(); // graph and node id -> the panel that was shown last, for nodes that are built anew

app.registerExtension({
  name: "membrane.panel",

  settings: [
    {
      id: SHOW,
      name: "Show the panel on Membrane nodes",
      tooltip: "What was changed, warnings, and how far each membrane acts on each prompt.",
      type: "boolean",
      defaultValue: true,
      category: ["Membrane", "Panel", "Show"],
      onChange: showPanels,
    },
  ],

  init() {
    loadStyle("panel.css");
    useLanguage(app.extensionManager.setting.get("Comfy.Locale"));
    api.addEventListener("membrane.gains", ({ detail }) => {
      const panel = panels.get(nodeOf(detail?.node_id));
      if (!panel) return;
      latest.set(keyOf(panel.node), panel);
      if (detail.panel && !panel.report) panel.show(detail.panel); // the page was reloaded and the node is cached
      panel.addGains(readEvent(detail));
    });
    api.addEventListener("membrane.guidance", ({ detail }) => {
      const panel = panels.get(nodeOf(detail?.node_id));
      if (!panel) return;
      latest.set(keyOf(panel.node), panel);
      panel.addGuidance(readGuidance(detail));
    });
    api.addEventListener("execution_start", () => {
      for (const node of nodesOf(app.graph)) panels.get(node)?.outdate();
    });
  },

  nodeCreated(node) {
    if (!hasPanel(node.comfyClass)) return;
    const panel = new Panel(node);
    panels.set(node, panel);
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.apply(this, arguments);
      latest.set(keyOf(node), panel);
      if (list(output?.membrane).length) panel.show(output.membrane[0]);
      if (list(output?.reference)[0]) node.properties.membrane = output.reference[0];
    };
  },

  loadedGraphNode(node) {
    const panel = panels.get(node);
    const earlier = latest.get(keyOf(node));
    if (panel && earlier && earlier !== panel && earlier.node.comfyClass === node.comfyClass) panel.restore(earlier);
  },
});

function keyOf(node) {
  return `${node.graph?.id}:${node.id}`;
}

function showPanels(shown) {
  document.documentElement.classList.toggle("membrane-hidden", shown === false);
  for (const node of nodesOf(app.graph)) panels.get(node)?.fit();
}

/** All nodes of the workflow, those inside subgraphs too. */
function* nodesOf(graph) {
  const root = graph?.rootGraph ?? graph;
  const inner = root?.subgraphs?.values?.() ?? [];
  for (const one of [root, ...inner]) yield* one?.nodes ?? [];
}

/** The node with an execution id: "12", or "5:12" for node 12 inside the subgraph node 5. */
function nodeOf(executionId) {
  const path = String(executionId ?? "").split(":");
  let graph = app.graph?.rootGraph ?? app.graph;
  for (const id of path.slice(0, -1)) graph = graph?.getNodeById?.(id)?.subgraph;
  return graph?.getNodeById?.(path.at(-1)) ?? undefined;
}
