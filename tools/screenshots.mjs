// Retakes the pictures of the example workflows: what the help pages, the README and the template browser show.
//
//   COMFYUI_PATH=…/ComfyUI COMFYUI_PYTHON=…/python node tools/screenshots.mjs [workflow ...]
//
// Needs Chromium, playwright-core (see tests/host/browser.mjs) and a ComfyUI whose page has both node renderers.

import { spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { open, openWorkflow, run } from "../tests/host/browser.mjs";

const ROOT = dirname(dirname(fileURLToPath(import.meta.url)));
const ALL = [
  "erase_a_shape",
  "load_chain_and_save",
  "concept_firewall",
  "chain_of_membranes",
  "windowed_negative",
  "safe_latent_diffusion",
  "negative_at_cfg_1",
  "text_attention_output",
  "train_an_erasure",
];
const WORKFLOWS = process.argv.length > 2 ? process.argv.slice(2) : ALL;
const QUIET = { "Comfy.Minimap.Visible": false, "Comfy.Graph.CanvasInfo": false, "Comfy.Graph.CanvasMenu": false };
const JSON_BODY = { "content-type": "application/json" };
const LARGEST = 120_000; // bytes of a picture in the repository

/** Runs `work(url)` beside a ComfyUI that writes only into a folder of its own. */
async function withServer(work) {
  const { COMFYUI_PATH, COMFYUI_PYTHON = "python3" } = process.env;
  if (!COMFYUI_PATH) throw new Error("COMFYUI_PATH must name a ComfyUI checkout");
  const base = mkdtempSync(join(tmpdir(), "membrane-"));
  for (const name of ["custom_nodes", "models", "input", "output", "temp", "user"]) mkdirSync(join(base, name));
  symlinkSync(ROOT, join(base, "custom_nodes", "membrane"));
  const port = await freePort();
  const flags = ["--cpu", "--listen", "127.0.0.1", "--port", String(port), "--base-directory", base];
  flags.push("--database-url", `sqlite:///${base}/comfyui.db`, "--disable-auto-launch", "--disable-api-nodes");
  const env = { ...process.env, OMP_NUM_THREADS: "1", PYTHONDONTWRITEBYTECODE: "1" };
  const server = spawn(COMFYUI_PYTHON, ["main.py", ...flags], { cwd: COMFYUI_PATH, env, stdio: "ignore" });
  const url = `http://127.0.0.1:${port}`;
  try {
    for (let tries = 0; !(await fetch(`${url}/system_stats`).catch(() => null)); tries++) {
      if (server.exitCode !== null || tries > 300) throw new Error("ComfyUI did not start");
      await new Promise((resolve) => setTimeout(resolve, 500));
    }
    await work(url);
  } finally {
    server.kill();
    rmSync(base, { recursive: true, force: true });
  }
}

function freePort() {
  return new Promise((resolve) => {
    const probe = createServer().listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

/** Moves the view so that all of the graph stands in the free part of the page. */
async function fitView(page) {
  await page.evaluate(() => {
    const boxes = [...app.graph.nodes, ...app.graph.groups].map((item) => item.boundingRect ?? item._bounding);
    const [left, top] = [0, 1].map((i) => Math.min(...boxes.map((box) => box[i])));
    const [right, bottom] = [0, 1].map((i) => Math.max(...boxes.map((box) => box[i] + box[i + 2])));
    const canvas = app.canvas.canvas.getBoundingClientRect();
    const free = { left: 64 - canvas.left, top: 98 - canvas.top, right: 1272 - canvas.left, bottom: 792 - canvas.top };
    const { ds } = app.canvas;
    ds.scale = Math.min((free.right - free.left) / (right - left), (free.bottom - free.top) / (bottom - top));
    ds.offset[0] = (free.left + free.right) / 2 / ds.scale - (left + right) / 2;
    ds.offset[1] = (free.top + free.bottom) / 2 / ds.scale - (top + bottom) / 2;
    app.canvas.setDirty(true, true);
  });
  await page.waitForTimeout(1000);
}

/** The picture of the template browser, which is square: as many of the rows that the workflow draws. */
async function card(page) {
  const data = await page.evaluate(async () => {
    const images = Object.values(app.nodeOutputs).flatMap((output) => output?.images ?? []);
    const urls = images.map((image) => app.api.apiURL(`/view?${new URLSearchParams(image)}`));
    const all = await Promise.all(urls.map(async (url) => createImageBitmap(await (await fetch(url)).blob())));
    const rows = all.filter((one) => one.width === all[0].width && one.height === all[0].height);
    const drawn = rows.slice(0, Math.max(2, Math.round(all[0].width / all[0].height)));
    const [gap, { width, height }] = [16, drawn[0]];
    const canvas = document.createElement("canvas");
    canvas.width = width;
    canvas.height = drawn.length * (height + gap) - gap;
    const pen = canvas.getContext("2d");
    pen.fillStyle = "white";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    drawn.forEach((one, i) => pen.drawImage(one, 0, i * (height + gap)));
    return canvas.toDataURL("image/jpeg", 0.88);
  });
  return Buffer.from(data.split(",")[1], "base64");
}

/** The page as a JPEG, as good as the size allows. */
async function picture(page) {
  for (const quality of [80, 72, 64, 56]) {
    const bytes = await page.screenshot({ type: "jpeg", quality });
    if (bytes.length <= LARGEST) return bytes;
  }
  throw new Error("the page holds too much for a small picture");
}

function write(bytes, ...path) {
  writeFileSync(join(ROOT, ...path), bytes);
  console.log(join(...path), bytes.length);
}

await withServer(async (url) => {
  for (const vue of [false, true]) {
    for (const theme of ["dark", "light"]) {
      const settings = { ...QUIET, "Comfy.ColorPalette": theme, "Comfy.VueNodes.Enabled": vue, "Comfy.Locale": "en" };
      const { browser, page } = await open(url, settings);
      for (const name of WORKFLOWS) {
        const workflow = JSON.parse(readFileSync(join(ROOT, "example_workflows", `${name}.json`), "utf8"));
        await fetch(`${url}/free`, { method: "POST", headers: JSON_BODY, body: '{"free_memory": true}' }); // else cached
        await page.waitForTimeout(1500);
        await openWorkflow(page, workflow, name);
        const [end, message] = await run(page);
        if (end !== "execution_success") throw new Error(`${name}: ${end} ${message}`);
        await page.waitForTimeout(7000); // until the message "job completed" has gone
        await fitView(page);
        const file = `${name.replaceAll("_", "-")}-${theme}-${vue ? "nodes2" : "canvas"}.jpg`;
        write(await picture(page), "web", "docs", "images", file);
        if (theme === "dark" && !vue) write(await card(page), "example_workflows", `${name}.jpg`);
      }
      await browser.close();
    }
  }
});
