// ComfyUI's page in Chromium, for the tests and for tools/screenshots.mjs.
//
// playwright-core is found as a module, or in the folder that MEMBRANE_PLAYWRIGHT names; Chromium on the path, or where
// MEMBRANE_CHROMIUM says. No browser is downloaded.

import { existsSync } from "node:fs";
import { createRequire } from "node:module";
import { delimiter, join } from "node:path";

const FLAGS =
  "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking " +
  "--disable-component-update --disable-sync";
const NAMES = ["chromium", "chromium-browser", "google-chrome"];
const FINISHED = ["execution_success", "execution_error", "execution_interrupted"];

/** Where the driver and the browser are, or a sentence saying what is missing. */
export function found() {
  const folders = (process.env.PATH ?? "").split(delimiter);
  const places = [process.env.MEMBRANE_CHROMIUM, ...NAMES.flatMap((name) => folders.map((dir) => join(dir, name)))];
  const browser = places.find((place) => place && existsSync(place));
  if (!browser) return { missing: "no Chromium on the path or at MEMBRANE_CHROMIUM" };
  try {
    const from = createRequire(import.meta.url);
    return { browser, driver: from(from.resolve(process.env.MEMBRANE_PLAYWRIGHT || "playwright-core")) };
  } catch {
    return { missing: "no playwright-core; MEMBRANE_PLAYWRIGHT can name its folder" };
  }
}

/** The page of the server at `url`, ready, with the user's `settings`; `errors` collects what goes wrong in it. */
export async function open(url, settings = {}, viewport = { width: 1280, height: 800 }) {
  const { browser: executablePath, driver, missing } = found();
  if (missing) throw new Error(missing);
  await fetch(`${url}/settings`, {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ "Comfy.TutorialCompleted": true, "Comfy.Workflow.Persist": false, ...settings }),
  });
  const browser = await driver.chromium.launch({ executablePath, args: FLAGS.split(" ") });
  const page = await browser.newPage({ viewport });
  const errors = [];
  page.on("pageerror", (error) => errors.push(String(error.stack ?? error)));
  page.on("console", (line) => {
    if (["error", "warning"].includes(line.type())) errors.push(`${line.text()} ${line.location().url}`);
  });
  await page.goto(url);
  await ready(page);
  return { browser, page, errors };
}

/** Waits until the page knows our nodes. */
export function ready(page) {
  return page.waitForFunction(
    () => window.app?.graph && window.LiteGraph?.registered_node_types?.MembraneErase && app.extensionManager?.setting,
    null,
    { timeout: 120_000 },
  );
}

/** Opens a workflow as if its file had been dropped on the page; waits until every node is drawn. */
export async function openWorkflow(page, workflow, name = null) {
  await page.evaluate(([json, title]) => app.loadGraphData(json, true, true, title), [workflow, name]);
  await page.waitForFunction((count) => app.graph.nodes.length === count, workflow.nodes.length);
  await page.waitForTimeout(700);
}

/** Queues the workflow as the Run button does and waits for its end: [event, message of an error]. */
export async function run(page) {
  const end = await page.evaluate(async (names) => {
    const ended = new Promise((resolve) => {
      for (const name of names) {
        const answer = ({ detail }) => resolve([name, detail?.exception_message ?? ""]);
        app.api.addEventListener(name, answer, { once: true });
      }
    });
    await app.queuePrompt(0, 1);
    const refused = Object.keys(app.lastNodeErrors ?? {}).length > 0;
    const late = new Promise((resolve) => setTimeout(() => resolve(["timeout", ""]), 120_000));
    return refused ? ["refused", JSON.stringify(app.lastNodeErrors)] : Promise.race([ended, late]);
  }, FINISHED);
  await page.waitForTimeout(500);
  return end;
}
