"""Our name tables equal ComfyUI's own, asked in a process of its interpreter."""

from host_support import ask, needs_host

pytestmark = needs_host

ASK = """
import json
import comfy.utils
from erasure_core.keys import SD1, SD2, SDXL, Family, UNetLayout, ldm_names

TINY = UNetLayout((32, 64, 64), ((1,), (1,), (0,)), 1, ((0, 0), (1, 1), (1, 1)), 64, False, 128)
DEMO = UNetLayout((64, 96), ((1,), (0,)), 1, ((0, 0), (1, 1)), 64, False, 256, inputs=8, outputs=8)


def compare(layout):
    flat = [depth for level in layout.down for depth in level]
    up = [depth for level in layout.up for depth in level]
    config = dict(
        num_res_blocks=[len(level) for level in layout.down],
        channel_mult=[c // layout.channels[0] for c in layout.channels],
        transformer_depth=flat,
        transformer_depth_output=up[::-1],
        transformer_depth_middle=layout.middle,
    )
    theirs = comfy.utils.unet_to_diffusers(config)
    ours = ldm_names(layout)
    return {
        "weights": len(ours),
        "differ": sorted(n for n in ours if theirs.get(n) != ours[n])[:5],
    }


layouts = {"sd1": SD1.unet, "sd2": SD2.unet, "sdxl": SDXL.unet, "tiny": TINY, "demo": DEMO}
print("ANSWER " + json.dumps({name: compare(layout) for name, layout in layouts.items()}))
"""


def test_names_of_every_unet_weight_equal_the_hosts():
    answer = ask(ASK)
    assert {name: found["weights"] for name, found in answer.items()} == {
        "sd1": 686,
        "sd2": 686,
        "sdxl": 1680,
        "tiny": 324,
        "demo": 208,
    }
    assert {name: found["differ"] for name, found in answer.items()} == {name: [] for name in answer}
