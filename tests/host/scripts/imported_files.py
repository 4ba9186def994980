"""Files of whole weights, text encoders and Receler through Load Membrane, compared with a base that is connected."""

import time
from pathlib import Path

import folder_paths
import graph
import safetensors.torch
import tiny
import torch


def folder():
    return Path(folder_paths.get_folder_paths("membranes")[0])


def load(name, **inputs):
    """(membrane, notes, seconds) of Load Membrane."""
    begun = time.perf_counter()
    out = graph.run("Load", name, 1.0, "always", **inputs)
    (panel,) = out["ui"]["membrane"]
    return out["result"][0][-1], panel["entries"][0]["notes"], time.perf_counter() - begun


def state(model):
    """The U-Net's weights by LDM names, as they are before the host adds any change."""
    patches = model.get_key_patches()
    return {
        k.removeprefix("diffusion_model."): patches[k][0][0].clone()
        for k in model.model.state_dict()
        if k.startswith("diffusion_model.")
    }


def moved(tensor, seed, size=0.05):
    made = torch.Generator().manual_seed(seed)
    return tensor + size * tensor.std() * torch.randn(tensor.shape, generator=made)


def esd(model):
    """ESD-x by LDM names: every tensor of cross-attention trained."""
    chosen = {k: v for k, v in state(model).items() if ".attn2." in k}
    return {f"model.diffusion_model.{k}": moved(v, i) for i, (k, v) in enumerate(chosen.items())}


def replaced(model, weights):
    """A clone whose weights are those of the file, put there by the host itself."""
    clone, own = model.clone(), state(model)
    names = {k: k.removeprefix("model.diffusion_model.") for k in weights}
    patches = {f"diffusion_model.{names[k]}": ("diff", (w - own[names[k]],)) for k, w in weights.items()}
    assert len(clone.add_patches(patches)) == len(weights)
    return clone


def whole_weights(model, clip):
    weights = esd(model)
    torch.save(weights, folder() / "esd.pt")
    membrane, first, _ = load("esd.pt", base=model)
    (kept,) = (folder() / "imported").glob("*.safetensors")
    before = kept.stat().st_mtime_ns
    again, second, _ = load("esd.pt", base=model, concept="a red circle")
    direct, third, _ = load(f"imported/{kept.name}")
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")
    plain = graph.predictions(model, *prompts)
    wanted = graph.predictions(replaced(model, weights), *prompts)
    found = graph.predictions(graph.apply(model, clip, [membrane])[0], *prompts)
    same = [
        torch.equal(one.dense(), other.weight_deltas[name].dense())
        for other in (again.erasure, direct.erasure)
        for name, one in membrane.erasure.weight_deltas.items()
    ]
    listed = graph.PACK.NODE_CLASS_MAPPINGS["MembraneLoad"].INPUT_TYPES()["required"]["file"][0]
    with_clip, fourth, _ = load("esd.pt", base=model, base_clip=clip)
    lora = model.clone()
    lora.add_patches({"diffusion_model.out.2.weight": ("diff", (torch.ones_like(state(model)["out.2.weight"]),))})
    return {
        "label": membrane.label,
        "first": first,
        "second": second,
        "direct": third,
        "notes with clip": fourth,
        "kept again": before == kept.stat().st_mtime_ns,
        "same": all(same) and len(same) == 2 * len(weights),
        "gates": [membrane.erasure.gate, again.erasure.gate],
        "acts": graph.difference(wanted, plain),
        "wrong": graph.difference(found, wanted),
        "listed": listed,
        "other base is another import": load("esd.pt", base=lora)[1] != second,
        "refused": {
            "no base": graph.refusal(load, "esd.pt"),
            "clip alone": graph.refusal(load, "esd.pt", base_clip=clip),
            "other model": graph.refusal(load, "esd.pt", base=tiny.unet("sd1", seed=5)),
            "other family": graph.refusal(load, "esd.pt", base=tiny.unet("sd2")),
        },
        "with clip": with_clip.erasure.weight_deltas.keys() == membrane.erasure.weight_deltas.keys(),
    }


def closed_form(model, clip):
    """UCE: a whole U-Net whose keys and values are ``W T``; the map is found, with the encoder's fingerprint."""
    made = torch.Generator().manual_seed(3)
    change = torch.eye(64) + torch.randn(64, 2, generator=made) @ torch.randn(2, 64, generator=made) / 64
    weights = {f"model.diffusion_model.{k}": v for k, v in state(model).items()}
    for k in weights:
        if k.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
            weights[k] = weights[k] @ change
    safetensors.torch.save_file({k: v.contiguous() for k, v in weights.items()}, folder() / "uce.safetensors")
    membrane, notes, _ = load("uce.safetensors", base=model, base_clip=clip)
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")
    found = graph.predictions(graph.apply(model, clip, [membrane])[0], *prompts)
    wanted = graph.predictions(replaced(model, weights), *prompts)
    return {
        "notes": notes,
        "map": [membrane.erasure.rank, sorted(membrane.erasure.maps), len(membrane.erasure.weight_deltas)],
        "probe": sorted(membrane.erasure.base.get("probe", {})),
        "wrong": graph.difference(found, wanted),
        "acts": graph.difference(graph.predictions(model, *prompts), wanted),
    }


def text_encoder(model, clip):
    """AdvUnlearn: a text encoder with every layer trained and the table of words as it was."""
    own = {k.removeprefix("clip_l.transformer."): v[0][0].clone() for k, v in clip.patcher.get_key_patches().items()}
    layers = {k: v for k, v in own.items() if k.startswith("text_model.")}
    file = {k: v if "embeddings" in k else moved(v, i, 0.2) for i, (k, v) in enumerate(layers.items())}
    torch.save({f"text_encoder.{k}": v for k, v in file.items()}, folder() / "encoder.pt")
    membrane, notes, _ = load("encoder.pt", base=model, base_clip=clip)
    changed = graph.apply(model, clip, [membrane])[1]
    rows = graph.text(changed, "a red circle")[0][0]
    with torch.no_grad():
        straight = clip.clone()
        names = {f"clip_l.transformer.{k}": ("diff", (v - layers[k],)) for k, v in file.items()}
        straight.add_patches(names, 1.0, 1.0)
        wanted = graph.text(straight, "a red circle")[0][0]
    plain = graph.text(clip, "a red circle")[0][0]
    return {
        "notes": notes,
        "roots": sorted({name.partition(".")[0] for name in membrane.erasure.weight_deltas}),
        "acts": graph.difference(wanted, plain),
        "wrong": graph.difference(rows, wanted),
        "no clip": graph.refusal(load, "encoder.pt", base=model),
    }


def erasers(model):
    parts = {"down.weight": (8, 32), "down.bias": (8,), "up.weight": (32, 8), "up.bias": (32,)}
    content = {"down_blocks.0.attentions.0": {part: torch.ones(shape) for part, shape in parts.items()}}
    torch.save(content, folder() / "eraser_weights.pt")
    membrane, notes, _ = load("eraser_weights.pt", base=model, concept="van gogh")
    return {"names": list(membrane.erasure.bottlenecks), "gate": membrane.erasure.gate, "notes": notes}


def big():
    """ESD-x of SDXL's shapes: two of the 70 blocks of the real file, which has a gigabyte."""
    from importlib import import_module

    core = f"{graph.NAME}.erasure_core"
    keys, imported = import_module(f"{core}.keys"), import_module(f"{core}.formats.imported")
    headers = import_module(f"{core}.formats.folder")
    digests = import_module(f"{core}.formats.digests")
    names = [n for n in keys.SDXL.shapes() if ".attentions.1.transformer_blocks.1.attn2." in n and "down_blocks" in n]
    base = {name: torch.zeros(()).expand(shape) for name, shape in keys.SDXL.shapes().items()}
    made, file = torch.Generator().manual_seed(1), {}
    for name in names:
        shape = keys.SDXL.shapes()[name]
        base[name] = torch.randn(shape, generator=made).bfloat16() / 36
        change = torch.randn(shape, generator=made) / 10_000
        if len(shape) > 1:
            change += torch.randn(shape[0], 8, generator=made) @ torch.randn(8, shape[1], generator=made) / 500
        file[name.removeprefix("unet.")] = base[name].float() + change
    safetensors.torch.save_file(file, folder() / "sdxl.safetensors")
    header = headers.open_header(folder() / "sdxl.safetensors")
    steps, times = [], []
    for _ in range(2):
        begun = time.process_time()
        digest = digests.digest_of(header.path, folder() / "imported" / "digests.json")
        place = folder() / "imported"
        done = imported.import_once(header, base, place, digest, "x", None, lambda *at: steps.append(at))
        times.append(time.process_time() - begun)
    return {
        "bytes": [header.size, done.path.stat().st_size],
        "seconds": times,
        "again": done.again,
        "ranks": sorted({delta.rank or 0 for delta in done.erasure.weight_deltas.values()}),
        "steps": [len(steps), list(steps[-1])],
        "left out": done.erasure.diagnostics["imported"]["delta_residual"],
    }


def interrupted(model):
    """The host's cancel in the middle of an import: nothing is kept, and the next run starts anew."""
    import comfy.model_management as management

    torch.save({**esd(model), "extra": torch.zeros(1)}, folder() / "long.pt")
    real, calls = management.throw_exception_if_processing_interrupted, []

    def stop():
        calls.append(1)
        if len(calls) == 9:
            raise management.InterruptProcessingException

    management.throw_exception_if_processing_interrupted = stop
    try:
        said = graph.refusal(load, "long.pt", base=model)
    finally:
        management.throw_exception_if_processing_interrupted = real
    left = [path.name for path in (folder() / "imported").iterdir() if path.name.startswith(("long", "."))]
    return {"said": said, "left": left, "afterwards": len(load("long.pt", base=model)[0].erasure.weight_deltas) > 0}


def main():
    with torch.inference_mode():
        folder().mkdir(parents=True, exist_ok=True)
        model, clip = tiny.unet("sd1"), tiny.text_encoder("sd1")
        return {
            "whole": whole_weights(model, clip),
            "closed form": closed_form(model, clip),
            "text encoder": text_encoder(model, clip),
            "erasers": erasers(model),
            "big": big(),
            "interrupted": interrupted(model),
        }
