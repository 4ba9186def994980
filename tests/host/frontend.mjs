// Drives the page for test_frontend.py: node frontend.mjs URL TASK; prints what it saw as one line of JSON.

import { readFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { found, open, openWorkflow, ready, run } from "./browser.mjs";

const ROOT = dirname(dirname(dirname(fileURLToPath(import.meta.url))));
const [url, task] = process.argv.slice(2);

function example(name) {
  return JSON.parse(readFileSync(join(ROOT, "example_workflows", `${name}.json`), "utf8"));
}

/** Node types the page does not know, and what it would queue. */
function opened(page) {
  return page.evaluate(async () => {
    const unknown = app.graph.nodes.filter((node) => !LiteGraph.registered_node_types[node.type]);
    return { missing: unknown.map((node) => node.type), prompt: (await app.graphToPrompt()).output };
  });
}

/** Type -> what its panels show, as text, and whether a person can see them. */
function panels(page) {
  return page.evaluate(() => {
    const shown = {};
    for (const node of app.graph.nodes) {
      const panel = node.widgets?.find((widget) => widget.name === "membrane_panel")?.element;
      if (!panel) continue;
      const parts = (name) => [...panel.querySelectorAll(name)].map((part) => part.textContent);
      (shown[node.type] ??= []).push({
        text: panel.textContent,
        prompts: parts(".membrane-words"),
        numbers: parts(".membrane-number"),
        visible: panel.checkVisibility() && panel.getBoundingClientRect().height > 10,
        inNode: panel.closest(".lg-node") !== null,
        fits: panel.getBoundingClientRect().width > 10 && panel.scrollWidth <= panel.clientWidth,
      });
    }
    return shown;
  });
}

/** Sets a widget of the first node with a title, as typing does. */
function edit(page, title, widget, value) {
  return page.evaluate(
    ([title, name, value]) => {
      app.graph.nodes.find((node) => node.title === title).widgets.find((one) => one.name === name).value = value;
    },
    [title, widget, value],
  );
}

async function eraseAShape(page) {
  await openWorkflow(page, example("erase_a_shape"));
  const facts = { ...(await opened(page)), hint: await panels(page), end: await run(page), first: await panels(page) };
  await edit(page, "Prompt", "text", "a blue star");
  await page.evaluate(() => {
    app.api.addEventListener("execution_cached", ({ detail }) => (window.cached = detail.nodes), { once: true });
  });
  facts.again = await run(page);
  facts.cached = await page.evaluate(() => window.cached.map((id) => app.graph.getNodeById(id).type));
  facts.second = await panels(page);
  facts.saved = await page.evaluate(() => app.graph.serialize().nodes.map((node) => [node.type, node.widgets_values]));
  await page.evaluate(async () => app.loadGraphData(app.graph.serialize())); // what undo does
  await page.waitForTimeout(500);
  facts.rebuilt = await panels(page);
  await page.evaluate(() => app.extensionManager.setting.set("Membrane.Panel.Show", false));
  await page.waitForTimeout(500);
  facts.hidden = await panels(page);
  await page.evaluate(() => app.extensionManager.setting.set("Membrane.Panel.Show", true));
  await page.reload();
  await ready(page);
  await openWorkflow(page, example("erase_a_shape"));
  await edit(page, "Prompt", "text", "a green moon");
  facts.reloadedEnd = await run(page);
  facts.reloaded = await panels(page);
  return facts;
}

async function loadChainAndSave(page) {
  await openWorkflow(page, example("load_chain_and_save"));
  const facts = { ...(await opened(page)), end: await run(page), first: await panels(page) };
  await page.evaluate(() => {
    const node = app.graph.nodes.find((one) => one.type === "MembraneLoad");
    delete node.properties.membrane;
    node.widgets.find((widget) => widget.name === "file").value = "no-circle-no-heart.safetensors";
  });
  facts.again = await run(page);
  facts.properties = await page.evaluate(() =>
    app.graph
      .serialize()
      .nodes.filter((node) => node.type === "MembraneLoad")
      .map((node) => node.properties.membrane),
  );
  return facts;
}

/** The firewall: a prompt that touches a rule and one that does not, another text, and one whose words are not known. */
async function conceptFirewall(page) {
  await openWorkflow(page, example("concept_firewall"));
  const facts = { ...(await opened(page)), end: await run(page), first: await panels(page) };
  await edit(page, "Prompt 2", "text", "two hearts");
  await page.evaluate(() => {
    app.api.addEventListener("execution_cached", ({ detail }) => (window.cached = detail.nodes), { once: true });
  });
  facts.again = await run(page);
  facts.cached = await page.evaluate(() => window.cached.map((id) => app.graph.getNodeById(id).type));
  facts.second = await panels(page);
  await edit(page, "Concept Firewall", "vectors", false);
  await page.evaluate(() => {
    const [model, prompt] = ["Demo Model (Membrane)", "Prompt 2"].map((title) =>
      app.graph.nodes.find((node) => node.title === title),
    );
    model.connect(1, prompt, 0); // a text encoder that notes no words
  });
  facts.unknown = await run(page);
  facts.third = await panels(page);
  return facts;
}

/** Four membranes and two prompts; then a prompt's answer from thirty membranes, as the server would send it. */
async function chainOfMembranes(page) {
  await openWorkflow(page, example("chain_of_membranes"));
  const facts = { ...(await opened(page)), end: await run(page), first: await panels(page) };
  await edit(page, "Prompt, left half", "text", "a blue star");
  facts.again = await run(page);
  facts.second = await panels(page);
  facts.thirty = await page.evaluate(() => {
    const node = app.graph.nodes.find((one) => one.type === "MembraneApply");
    const membranes = Array.from({ length: 30 }, (_, i) => `membrane ${i}`);
    const gains = [membranes.map((_, i) => (i % 7 === 3 ? 1 - i / 100 : 0))];
    const event = { node_id: String(node.id), run: "x", prompt: "x", text: "thirty", negative: false, mode: "exact" };
    const gates = membranes.map((_, i) => (i % 2 ? "words" : "calibrated"));
    app.api.dispatchCustomEvent("membrane.gains", { ...event, membranes, gates, gains });
    const panel = node.widgets.find((widget) => widget.name === "membrane_panel").element;
    const part = [...panel.querySelectorAll(".membrane-gains")].find((one) => one.textContent.includes("thirty"));
    const texts = (name) => [...part.querySelectorAll(name)].map((one) => one.textContent);
    const shown = { names: texts(".membrane-bars .membrane-of"), numbers: texts(".membrane-number") };
    return { ...shown, summary: texts("summary"), why: texts(".membrane-skipped .membrane-aside") };
  });
  return facts;
}

/** Training, then another prompt, for which it is not done again. */
async function trainAnErasure(page) {
  await openWorkflow(page, example("train_an_erasure"));
  const facts = { ...(await opened(page)), hint: await panels(page), end: await run(page), first: await panels(page) };
  await edit(page, "Prompt", "text", "a blue circle");
  facts.again = await run(page);
  facts.second = await panels(page);
  return facts;
}

/** A workflow of the negatives as it is, then with another prompt. */
async function negatives(page, name) {
  await openWorkflow(page, example(name));
  const facts = { ...(await opened(page)), hint: await panels(page), end: await run(page), first: await panels(page) };
  await edit(page, "Prompt", "text", "a blue star");
  facts.again = await run(page);
  return facts;
}

/** Negative Guidance before the sampler of the open workflow: its panel before and after a run, and at cfg 1. */
async function guidance(page) {
  await page.evaluate(() => {
    const node = LiteGraph.createNode("MembraneNegativeGuidance");
    app.graph.add(node);
    const [sampler] = app.graph.nodes.filter((one) => one.type === "KSampler");
    const link = app.graph.links[sampler.inputs.find((input) => input.name === "model").link];
    const [demo] = app.graph.nodes.filter((one) => one.type === "MembraneDemoModel");
    app.graph.getNodeById(link.origin_id).connect(link.origin_slot, node, 0);
    demo.connect(1, node, 1);
    node.connect(0, sampler, 0);
  });
  const facts = { hint: await panels(page), end: await run(page), first: await panels(page) };
  facts.drawn = await page.evaluate(() => {
    const node = app.graph.nodes.find((one) => one.type === "MembraneNegativeGuidance");
    const plot = node.widgets.find((one) => one.name === "membrane_panel").element.querySelector(".membrane-plot");
    const { width, height } = plot.getBoundingClientRect();
    return { paths: plot.querySelectorAll("path").length, dots: plot.querySelectorAll("circle").length, width, height };
  });
  await page.evaluate(() => {
    const of = (type, name) => app.graph.nodes.find((one) => one.type === type).widgets.find((w) => w.name === name);
    of("MembraneNegativeGuidance", "method").value = "negative";
    for (const node of app.graph.nodes) if (node.type === "KSampler") node.widgets.find((w) => w.name === "cfg").value = 1;
  });
  facts.again = await run(page);
  facts.second = await panels(page);
  return facts;
}

/** The erasing workflow once, as the settings show it; a `strength` of its own, or the host would have it cached. */
async function once(page, strength) {
  await openWorkflow(page, example("erase_a_shape"));
  await page.evaluate((value) => {
    const node = app.graph.nodes.find((one) => one.type === "MembraneErase");
    node.widgets.find((widget) => widget.name === "strength").value = value;
  }, strength);
  const facts = { hint: await panels(page), end: await run(page), first: await panels(page) };
  facts.erase = await page.evaluate(() => {
    const node = LiteGraph.createNode("MembraneErase");
    return { title: node.title, widgets: node.widgets.map((widget) => widget.label ?? widget.name) };
  });
  facts.guidance = await guidance(page);
  return facts;
}

const TASKS = {
  canvas: [
    {},
    async (page) => ({
      erase: await eraseAShape(page),
      load: await loadChainAndSave(page),
      firewall: await conceptFirewall(page),
      chain: await chainOfMembranes(page),
      windowed: await negatives(page, "windowed_negative"),
      sld: await negatives(page, "safe_latent_diffusion"),
      attention: await negatives(page, "negative_at_cfg_1"),
      stages: await negatives(page, "text_attention_output"),
      train: await trainAnErasure(page),
    }),
  ],
  nodes2: [{ "Comfy.VueNodes.Enabled": true }, (page) => once(page, 0.9)],
  chinese: [{ "Comfy.Locale": "zh" }, (page) => once(page, 0.8)],
};

if (task === "found") {
  console.log(JSON.stringify(found().missing ?? ""));
} else {
  const [settings, work] = TASKS[task];
  const defaults = { "Comfy.VueNodes.Enabled": false, "Comfy.Locale": "en" };
  const { browser, page, errors } = await open(url, { ...defaults, ...settings });
  try {
    console.log(JSON.stringify({ ...(await work(page)), errors }));
  } finally {
    await browser.close();
  }
}
