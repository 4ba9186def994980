"""A ControlNet of the host beside a membrane: what it receives, and what comes out."""

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management as management
import graph
import tiny
import torch

from nodes import ControlNetApplyAdvanced


def control_net(kind):
    """The host's ControlNet with random weights for a tiny model of the family."""
    config = {key: value for key, value in tiny.KINDS[kind].unet.items() if key != "out_channels"}
    with torch.inference_mode(False):
        network = comfy.cldm.cldm.ControlNet(**config, **tiny.HEADS, hint_channels=3, dtype=torch.float32)
        network.load_state_dict(tiny.random_weights(tiny.shapes_of(network), seed=9))
    return comfy.controlnet.ControlNet(network, load_device=management.get_torch_device())


def run(model, prompts, net, image, strength=0.8):
    """Predictions with the ControlNet on both prompts, and the text that it was given."""
    given = []
    hook = net.control_model.register_forward_pre_hook(
        lambda module, args, kwargs: given.append(kwargs["context"].clone()), with_kwargs=True
    )
    try:
        both = ControlNetApplyAdvanced().apply_controlnet(*prompts, net, image, strength, 0.0, 1.0)
        return graph.predictions(model, *both), torch.stack(given)
    finally:
        hook.remove()


def compare(kind):
    model, clip, net = tiny.unet(kind), tiny.text_encoder(kind), control_net(kind)
    some = graph.membranes(model, clip)
    image = torch.rand((1, 64, 64, 3), generator=torch.Generator().manual_seed(3))
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")
    forms = {
        "plain": model,
        "off": graph.apply(model, clip, [graph.changed(some[0], strength=0.0)])[0],
        "text": graph.apply(model, clip, some)[0],
        "weights": graph.apply(model, clip, some, act_on="weights")[0],
        "cond": graph.apply(model, clip, some, rows="cond")[0],
    }
    made = {name: run(form, prompts, net, image) for name, form in forms.items()}
    text, plain = made["text"][0], made["plain"][0]
    return {
        "ControlNet acts": graph.difference(plain, graph.predictions(model, *prompts)),
        "membrane acts": graph.difference(text, plain),
        "off, bitwise": graph.same(made["off"][0], plain),
        "weights": graph.difference(made["weights"][0], text),
        "cond": graph.difference(made["cond"][0], text),
        "its text is bitwise the plain one": {
            name: graph.same(given, made["plain"][1]) for name, (_, given) in made.items()
        },
        "calls": len(made["plain"][1]),
    }


def main():
    return {kind: compare(kind) for kind in ("sd1", "sdxl")}
