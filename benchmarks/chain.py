"""What membranes of changed layers cost in ComfyUI: 1, 10 and 100 open at once, and 100 of which 2 are open.

    COMFYUI_PATH=... COMFYUI_PYTHON=... python benchmarks/chain.py [--pairs 9] [--fresh]

Every membrane is of rank one on the 192 layers of SPM's scope (arXiv 2312.16145), on a U-Net of Stable Diffusion 1.5's
shapes with random weights in ComfyUI: 32 x 32 latents, prompt and negative in one batch, one thread, processor time,
interleaved pairs of a call with and without. Beside it the multiplications that are added, counted: at 32 x 32 and at
64 x 64 latents, relative to the U-Net's own. Every way is stored when it is done, so an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from pathlib import Path
from typing import Any

from host import asked, inside, load_pack, random_unet

RESULTS = Path(__file__).parent / "results" / "chain.json"
WAYS = {"1 open": (1, 1), "10 open": (10, 10), "100 open": (100, 100), "100 loaded, 2 open": (100, 2)}
COUNT = "multiplications of one membrane"
LAYERS = 192


def main() -> int:
    """Measure what is missing and print everything."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=9, help="pairs of calls with and without the membranes")
    parser.add_argument("--fresh", action="store_true", help="measure everything again")
    options = parser.parse_args()
    host = Path(os.environ["COMFYUI_PATH"])
    version = re.search(r'"(.+)"', (host / "comfyui_version.py").read_text(encoding="utf-8"))
    name = f"ComfyUI {version.group(1) if version else '?'}"
    stored = {} if options.fresh or not RESULTS.exists() else json.loads(RESULTS.read_text(encoding="utf-8"))
    mine = stored.setdefault(name, {})
    for way in (COUNT, *WAYS):
        if way not in mine:
            mine[way] = inside(host, os.environ.get("COMFYUI_PYTHON", sys.executable), way, options.pairs, __file__)
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")
        print(f"{name}, {way}: {json.dumps(mine[way])}")
    return 0


def measure(way: str, pairs: int) -> dict[str, Any]:
    """Median ratio of calls with and without the membranes of ``way``."""
    import torch

    loaded, opened = WAYS[way]
    pack = load_pack()
    acting, host = pack("nodes.acting"), pack("nodes.host")
    torch.manual_seed(0)
    with torch.inference_mode():
        model = random_unet()
        layers = scope(model, pack)
        entries = [acting.Entry(action(pack, layers, i, i < opened), "cond", None) for i in range(loaded)]
        slot = pack("erasure_core.keys.text").Slot
        where = {name: slot(theirs) for name, (theirs, _) in layers.items()}
        wrapper = acting.Membranes(entries, where)
        changed = model.clone()
        host.put_wrappers(changed, wrapper, wrapper.around_sampling)
        x, t, context = torch.randn(2, 4, 32, 32), torch.full((2,), 5.0), torch.randn(2, 77, 768)
        known = {"n": ("negative", context[:1], None), "p": ("positive", context[1:], None)}
        run = acting.Run(known, {}, [(float("inf"), 0.0)] * loaded, torch.ones(loaded))
        chunks = {"cond_or_uncond": [1, 0], "uuids": ["n", "p"]}
        plain = {**model.model_options["transformer_options"], **chunks}
        active = {
            **changed.model_options["transformer_options"],
            **chunks,
            "wrappers": changed.wrappers,
            host.KEY: run,
        }

        def call(options: dict[str, Any]) -> float:
            begun = time.process_time()
            model.model.apply_model(x, t, c_crossattn=context.clone(), transformer_options=options)
            return time.process_time() - begun

        first = call(active) - call(plain)  # stacks the open ones and reads the text: once in a sampling
        seconds = [(call(plain), call(active)) for _ in range(pairs)]
        wrapper.finish(run)
    ratios = [with_ / without - 1 for without, with_ in seconds]
    return {
        "pairs": pairs,
        "call, ms": round(1000 * statistics.median(without for without, _ in seconds)),
        "overhead, median": round(statistics.median(ratios), 4),
        "overhead, range": [round(min(ratios), 4), round(max(ratios), 4)],
        "first call besides, ms": round(1000 * first),
    }


def multiplications() -> dict[str, float]:
    """What one membrane of rank one adds to a row of a call, relative to the U-Net's own."""
    import torch

    pack = load_pack()
    with torch.inference_mode():
        model = random_unet()
        layers = scope(model, pack)
        return {f"{size} x {size}": round(counted(model, layers, size), 6) for size in (32, 64)}


def scope(model: Any, pack: Any) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Canonical layer -> (the host's name of its weight, shape) of every layer of the transformers."""
    shapes = pack("nodes.host").shapes(model)
    names = {ours: slot.key for ours, slot in pack("erasure_core.keys").family_of(shapes).host_slots().items()}
    found = {
        ours.removesuffix(".weight"): (theirs, tuple(shapes[theirs]))
        for ours, theirs in names.items()
        if theirs in shapes and ".attentions." in ours and ours.endswith(".weight") and "norm" not in ours
    }
    assert len(found) == LAYERS, len(found)
    return found


def action(pack: Any, layers: dict[str, tuple[str, tuple[int, ...]]], seed: int, is_open: bool) -> Any:
    """A random membrane of rank one on all ``layers``."""
    import torch

    random = torch.Generator().manual_seed(seed)
    delta, gates = pack("erasure_core.erasure").WeightDelta, pack("erasure_core.gates")
    deltas = {}
    for name, (_, shape) in layers.items():
        down = torch.randn(1, *shape[1:], generator=random) / shape[1] ** 0.5
        up = torch.randn(shape[0], 1, *[1] * (len(shape) - 2), generator=random) / 100
        deltas[f"{name}.weight"] = delta(f"{name}.weight", down=down, up=up)
    closed = gates.Activation(0.0, "exact")
    gate = gates.Always() if is_open else lambda prompt: closed
    return pack("erasure_core.acting").Action(str(seed), {}, 1.0, gate, deltas)


def counted(model: Any, layers: dict[str, tuple[str, tuple[int, ...]]], size: int) -> float:
    """Multiplications that one rank-one membrane adds to a row of a call, relative to the U-Net's own.

    Keys and values of the text are left out: their part is found once. Attention's products count as the U-Net's.
    """
    import torch

    macs, added = [], []
    network = model.model.diffusion_model
    mine = {
        theirs.removeprefix("diffusion_model.").removesuffix(".weight"): ours for ours, (theirs, _) in layers.items()
    }

    def look(name: str) -> Any:
        def hook(module: Any, args: Any, out: Any) -> None:
            places = out[0, 0].numel() if out.dim() == 4 else out[0].numel() // out.shape[-1]
            macs.append(places * module.weight.numel())
            channels = out.shape[1] if out.dim() == 4 else out.shape[-1]
            if name in mine and not mine[name].endswith(("attn2.to_k", "attn2.to_v")):
                added.append(places * (channels + module.weight[0].numel()))
            if name.endswith(("attn1.to_q", "attn2.to_q")):
                keys = places if "attn1" in name else 77
                macs.append(2 * places * keys * channels)

        return hook

    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    handles = [m.register_forward_hook(look(n)) for n, m in network.named_modules() if isinstance(m, kinds)]
    try:
        x, context = torch.randn(1, 4, size, size), torch.randn(1, 77, 768)
        network(x, torch.full((1,), 5.0), context=context)
    finally:
        for handle in handles:
            handle.remove()
    return sum(added) / sum(macs)


if __name__ == "__main__":
    request = asked()
    if request is not None:
        print(json.dumps(multiplications() if request[0] == COUNT else measure(*request)))
    else:
        sys.exit(main())
