"""What the scripts share: the pack as the host loads it, its nodes, and pictures and predictions of a model."""

import contextlib
import dataclasses
import importlib.util
import sys
from pathlib import Path

import comfy.sample
import comfy.samplers
import server
import torch

ROOT = Path(__file__).resolve().parents[3]
NAME = "membrane_pack"


def _pack():
    """The pack by its path, under a name of its own, as the host imports custom nodes."""
    place = importlib.util.spec_from_file_location(NAME, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)])
    module = importlib.util.module_from_spec(place)
    sys.modules[NAME] = module
    place.loader.exec_module(module)
    return module


PACK = _pack()


def run(name, *args, **kwargs):
    """What one of our nodes returns to the host."""
    cls = PACK.NODE_CLASS_MAPPINGS[f"Membrane{name}"]
    return getattr(cls(), cls.FUNCTION)(*args, **kwargs)


def node(name, *args, **kwargs):
    """The outputs of one of our nodes."""
    out = run(name, *args, **kwargs)
    return out["result"] if isinstance(out, dict) else out


def refusal(action, *args, **kwargs):
    """Kind and message of what an action raises; empty if nothing."""
    try:
        action(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - the tests look at its kind
        return f"{type(error).__name__}: {error}"
    return ""


def membranes(model, clip, text="circle -> square", options="", **changes):
    """MEMBRANE with one erasure, its strength and gate changed as asked."""
    (concepts,) = node("Concepts", text, "object", "cross\ntriangle")
    (membrane,) = node("Erase", model, clip, concepts, "uce", 1.0, options)[2]
    return (changed(membrane, **changes),)


def unjoined(some):
    """Membranes without rows or recipe: a list of them is summed, not solved jointly."""
    bare = [dataclasses.replace(m.erasure, recipe={}, statistics={}) for m in some]
    return [dataclasses.replace(m, erasure=erasure) for m, erasure in zip(some, bare, strict=True)]


def changed(membrane, **changes):
    return type(membrane)(membrane.erasure, **{"strength": membrane.strength, "gate": membrane.gate, **changes})


def apply(model, clip, some, rows="all", act_on="text", node_id=None):
    """MODEL and CLIP of Apply Membranes."""
    return node("Apply", model, clip, tuple(some), rows, act_on, unique_id=node_id)[:2]


def text(clip, *prompts):
    """CONDITIONING of one prompt, or of several side by side as Conditioning (Combine) makes it."""
    return [entry for prompt in prompts for entry in clip.encode_from_tokens_scheduled(clip.tokenize(prompt))]


def text_pair(clip, prompt, negative="blurred"):
    """CONDITIONING of a prompt and of a negative one."""
    return text(clip, prompt), text(clip, negative)


def empty(model, batch=2, size=8):
    return torch.zeros(batch, model.model.latent_format.latent_channels, size, size)


def draw(model, positive, negative, seed=1, batch=2, steps=4, sampler="euler", cfg=5.0):
    """Latents after a few steps."""
    latent = empty(model, batch)
    noise = comfy.sample.prepare_noise(latent, seed)
    return comfy.sample.sample(
        model, noise, steps, cfg, sampler, "normal", positive, negative, latent, seed=seed, disable_pbar=True
    )


SIGMAS = (14.0, 3.0, 0.7, 0.1)


def noise_for(model, batch=2, seed=1):
    return comfy.sample.prepare_noise(empty(model, batch), seed)


def predictions(model, positive, negative, batch=2, sigmas=SIGMAS, noise=None):
    """The U-Net's own answers at several noise levels, [levels, positive and negative, batch, c, h, w].

    They are asked for as a sampler asks, so every wrapper, hook, ControlNet and patch of the graph takes part. A prompt
    of several conditionings has one answer, as the host combines them.
    """
    answers = []
    probe = model.clone()

    def keep(args):
        noise = [(args["input"] - args[name]) / args["sigma"].max() for name in ("cond_denoised", "uncond_denoised")]
        answers.append(torch.stack(noise))
        return args["denoised"]

    def visit(denoiser, x, levels, extra_args, **kwargs):
        for sigma in levels:
            denoiser(x * sigma / levels[0], sigma * x.new_ones(len(x)), **extra_args)
        return x

    probe.set_model_sampler_post_cfg_function(keep, disable_cfg1_optimization=True)
    noise = noise_for(model, batch) if noise is None else noise
    sampler, levels, latent = comfy.samplers.KSAMPLER(visit), torch.tensor(sigmas), torch.zeros_like(noise)
    comfy.sample.sample_custom(probe, noise, 2.0, sampler, levels, positive, negative, latent, disable_pbar=True)
    return torch.stack(answers)


@contextlib.contextmanager
def events():
    """The list of what is sent to the page meanwhile, as (event, data)."""
    sent = []

    class Page:
        def send_sync(self, event, data, sid=None):
            sent.append((event, data))

    before = getattr(server.PromptServer, "instance", None)
    server.PromptServer.instance = Page()
    try:
        yield sent
    finally:
        server.PromptServer.instance = before


def gains(model, *conditionings):
    """What the page is told of each prompt of one step: text -> (gains, mode)."""
    with events() as sent:
        predictions(model, *conditionings, batch=1, sigmas=(3.0,))
    assert all(event == "membrane.gains" for event, _ in sent)
    return {data["text"]: (data["gains"], data["mode"]) for _, data in sent}


def difference(one, other):
    """How far ``one`` is from ``other``, relative to ``other``: the worst of the levels for predictions."""
    assert one.shape == other.shape and torch.isfinite(one).all() and torch.isfinite(other).all()
    flat, base = (one.double() - other.double()).flatten(1), other.double().flatten(1)
    return float((flat.norm(dim=1) / base.norm(dim=1)).max())


def same(one, other):
    return torch.equal(one, other)
