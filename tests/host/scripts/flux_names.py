"""Our names of Flux against the host's own table and its own network."""

import comfy.utils
import tiny
import torch
from comfy.ldm.flux.model import Flux

from erasure_core.keys import FLUX, family_of

SIZES = {"vec_in_dim": 768, "context_in_dim": 4096, "hidden_size": 3072, "num_heads": 24}
REAL = {**tiny.FLUX, **SIZES, "depth": 19, "depth_single_blocks": 38, "axes_dim": [16, 56, 56]}


def compare(config):
    """How many of the host's names are ours, which differ, and whether its network's shapes give our layout."""
    network = Flux(**{**config, "guidance_embed": True}, device="meta", operations=comfy.ops.disable_weight_init)
    shapes = {f"diffusion_model.{name}": tuple(p.shape) for name, p in network.named_parameters()}
    family = family_of(shapes)
    slots = family.host_slots()
    differ, known = [], 0
    for ours, theirs in comfy.utils.flux_to_diffusers(config, output_prefix="diffusion_model.").items():
        slot = slots.get(f"transformer.{ours}")
        if slot is None:
            continue  # of other models: inpainting, Flux 2
        known += 1
        key, place, swap = (*((theirs,) if isinstance(theirs, str) else theirs), None, None)[:3]
        same = (slot.key, None if slot.start is None else (0, slot.start, slot.length)) == (key, place)
        halves = torch.arange(4) if swap is None else swap(torch.arange(4))
        if not same or not torch.equal(slot.given(torch.arange(4)), halves):
            differ.append(ours)
    mine = {slot.key for name, slot in slots.items() if name.startswith("transformer.")}
    return {
        "known": known,
        "all": len(family.denoiser.shapes()),
        "differ": differ,
        "network": sorted(mine ^ shapes.keys()),
        "published": family.denoiser.shapes() == FLUX.denoiser.shapes(),
    }


def main():
    return {"flux": compare(REAL), "tiny": compare(tiny.FLUX)}
