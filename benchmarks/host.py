"""What the pack costs inside ComfyUI: its import, and an active map in every call of the denoiser.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python benchmarks/host.py [--pairs 9] [--fresh]

Runs in the host's interpreter (it starts itself there). Import: the host's own line in its log, and Python's
``-X importtime`` for our modules. Overhead: the same call of the denoiser with and without the map, in interleaved
pairs on one thread, processor time; once on a U-Net of Stable Diffusion 1.5's shapes with random weights (64 x 64
latents would take minutes a call on a processor, so 32 x 32, where the map weighs more), once on the bundled model; and
the wrapper by itself, without any denoiser. Every section is stored when it is done, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = Path(__file__).parent / "results" / "host.json"
SD15 = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
    "legacy": False,
}
RANK = 10  # rank-one terms of the map: what UCE gives for one concept


def main() -> int:
    """Measure what is missing and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of calls with and without the map")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    options = parser.parse_args()
    host = Path(os.environ["COMFYUI_PATH"])
    python = os.environ.get("COMFYUI_PYTHON", sys.executable)
    version = re.search(r'"(.+)"', (host / "comfyui_version.py").read_text(encoding="utf-8"))
    name = f"ComfyUI {version.group(1) if version else '?'}"
    stored = {} if options.fresh or not RESULTS.exists() else json.loads(RESULTS.read_text(encoding="utf-8"))
    mine = stored.setdefault(name, {"machine": platform.processor() or platform.machine()})
    sections = {
        "import": lambda: imports(host, python),
        "bundled model": lambda: inside(host, python, "tiny", 40 * options.pairs),
        "SD1.5 shapes": lambda: inside(host, python, "sd15", options.pairs),
    }
    for section, measure in sections.items():
        if section not in mine:
            mine[section] = measure()
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        print(f"{name}, {section}: {json.dumps(mine[section])}")
    return 0


def imports(host: Path, python: str) -> dict[str, Any]:
    """Seconds in the host's log, and of our modules alone, three starts."""
    logged, timed = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as base:
            packs = Path(base) / "custom_nodes"
            packs.mkdir()
            (packs / "membrane").symlink_to(ROOT, target_is_directory=True)
            command = [python, "-B", "-X", "importtime", "main.py", "--cpu", "--quick-test-for-ci", "--base-directory"]
            command += [base, "--database-url", f"sqlite:///{base}/db", "--disable-api-nodes"]
            done = subprocess.run(command, cwd=host, capture_output=True, text=True, check=True)
        text = done.stdout + done.stderr
        logged += [float(s) for s in re.findall(r"([\d.]+) seconds: \S*custom_nodes/membrane", text)]
        own = re.findall(r"import time:\s+(\d+) \|\s+\d+ \| +\S*custom_nodes/membrane\S*", text)
        timed.append(sum(map(int, own)) / 1e6)
    return {"log line, s": logged, "importtime of our modules, s": timed}


def inside(host: Path, python: str, which: str, pairs: int, script: str = __file__) -> dict[str, Any]:
    """Start ``script``, by default this file, in the host's interpreter."""
    variables = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    command = [python, script, "--inside", which, str(pairs), str(host)]
    done = subprocess.run(command, cwd=host, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-3000:])
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def overhead(which: str, pairs: int) -> dict[str, Any]:
    """Median ratio of calls with and without the map, and the wrapper's own time."""
    import torch

    pack = load_pack()
    acting, host = pack("nodes.acting"), pack("nodes.host")
    core = pack("erasure_core")
    width = 768 if which == "sd15" else 64
    torch.manual_seed(0)
    with torch.inference_mode():
        model = random_unet() if which == "sd15" else pack("nodes").NODE_CLASS_MAPPINGS["MembraneDemoModel"]().run()[0]
        factor = core.MapFactor(torch.randn(RANK, width) / width, torch.randn(width, RANK))
        emap = core.EmbeddingMap("clip_l", (factor,))
        action = pack("erasure_core.acting").Action("map", {"clip_l": emap}, 1.0, pack("erasure_core.gates").Always())
        mapped = acting.Membranes([acting.Entry(action, "cond", None)], {})
        changed = model.clone()
        host.put_wrappers(changed, mapped, mapped.around_sampling)
        size, channels = (32, 4) if which == "sd15" else (8, 8)
        x, t = torch.randn(2, channels, size, size), torch.full((2,), 5.0)
        context = torch.randn(2, 77, width)
        chunks = {"cond_or_uncond": [1, 0], "uuids": ["n", "p"]}
        plain = {**model.model_options["transformer_options"], **chunks}
        active = {**changed.model_options["transformer_options"], **chunks, "wrappers": changed.wrappers}

        def call(options: dict[str, Any]) -> float:
            begun = time.process_time()
            model.model.apply_model(x, t, c_crossattn=context, transformer_options=options)
            return time.process_time() - begun

        for options in (plain, active):
            call(options)
        seconds = [(call(plain), call(active)) for _ in range(pairs)]
        alone = []
        network = model.model.diffusion_model
        nothing = Nothing(network, network.forward)
        for _ in range(300):
            begun = time.process_time()
            mapped(nothing, x, t, context, None, None, active)
            alone.append(time.process_time() - begun)
    ratios = [with_ / without - 1 for without, with_ in seconds]
    step = statistics.median(without for without, _ in seconds)
    return {
        "pairs": pairs,
        "call, ms": round(1000 * step, 2),
        "overhead, median": round(statistics.median(ratios), 5),
        "overhead, range": [round(min(ratios), 5), round(max(ratios), 5)],
        "wrapper alone, ms": round(1000 * statistics.median(alone), 4),
        "wrapper alone / call": round(statistics.median(alone) / step, 6),
    }


class Nothing:
    """Stands where the denoiser's call would be and does none of its work."""

    def __init__(self, class_obj: Any, original: Any) -> None:
        self.class_obj, self.original = class_obj, original

    def __call__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing."""


def random_unet() -> Any:
    """A U-Net of Stable Diffusion 1.5's shapes; all weights come from one state dict, as the host expects."""
    import comfy.model_management as management
    import comfy.model_patcher
    import comfy.supported_models
    import torch

    class Random(comfy.supported_models.SD15):  # type: ignore[misc, name-defined]
        unet_config: dict[str, Any] = {}  # noqa: RUF012 - the host's form

    config = Random(dict(SD15))
    config.set_inference_dtype(torch.float32, None)
    network = config.get_model({}, "", device=management.unet_offload_device())
    shapes = {k: v.shape for k, v in network.diffusion_model.state_dict().items()}
    weights = {k: torch.randn(s) / max(1, s[1:].numel()) ** 0.5 for k, s in shapes.items()}
    network.load_model_weights(weights, "")
    return comfy.model_patcher.ModelPatcher(
        network, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )


def load_pack() -> Any:
    """The pack as the host loads it; returns a function that gives its modules."""
    name = "membrane_pack"
    spec = importlib.util.spec_from_file_location(name, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return lambda part: importlib.import_module(f"{name}.{part}")


def asked() -> tuple[str, int] | None:
    """What :func:`inside` asked this process for, which is the host's then; None if nothing."""
    if "--inside" not in sys.argv:
        return None
    _, _, chosen, count, folder = sys.argv
    sys.path.insert(0, folder)
    sys.argv = ["x", "--cpu"]
    import comfy.options

    comfy.options.enable_args_parsing()
    return chosen, int(count)


if __name__ == "__main__":
    request = asked()
    if request is not None:
        print(json.dumps(overhead(*request)))
    else:
        sys.exit(main())
