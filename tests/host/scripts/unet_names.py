"""Canonical names of U-Net weights beside the host's own table."""

import comfy.utils

from erasure_core.keys import SD1, SD2, SDXL, UNetLayout, ldm_names

TINY = UNetLayout((32, 64, 64), ((1,), (1,), (0,)), 1, ((0, 0), (1, 1), (1, 1)), 64, False, 128)
DEMO = UNetLayout((64, 96), ((1,), (0,)), 1, ((0, 0), (1, 1)), 64, False, 256, inputs=8, outputs=8)


def compare(layout):
    up = [depth for level in layout.up for depth in level]
    config = {
        "num_res_blocks": [len(level) for level in layout.down],
        "channel_mult": [channels // layout.channels[0] for channels in layout.channels],
        "transformer_depth": [depth for level in layout.down for depth in level],
        "transformer_depth_output": up[::-1],
        "transformer_depth_middle": layout.middle,
    }
    theirs = comfy.utils.unet_to_diffusers(config)
    ours = ldm_names(layout)
    return {"weights": len(ours), "differ": sorted(n for n in ours if theirs.get(n) != ours[n])[:5]}


def main():
    layouts = {"sd1": SD1.denoiser, "sd2": SD2.denoiser, "sdxl": SDXL.denoiser, "tiny": TINY, "demo": DEMO}
    return {name: compare(layout) for name, layout in layouts.items()}
