"""Pictures of the demo model as ComfyUI draws them from given noise and noise levels, and an erasure solved there."""

import comfy.sample
import comfy.samplers
import graph
import torch


def pictures(model, clip, vae, prompts, negative, noise, sigmas, cfg):
    """[n, 3, H, W] in 0..1, one prompt and one noise at a time."""
    drawn = []
    first, last = sigmas[0], sigmas[-1]
    for prompt, own in zip(prompts, noise, strict=True):
        start = (
            own[None] * (1 + first**2) ** 0.5 / first
        )  # the host adds noise times sigma, diffusers noise of length 1
        latents = comfy.sample.sample_custom(
            model,
            start,
            cfg,
            comfy.samplers.sampler_object("euler"),
            torch.tensor(sigmas),
            graph.text(clip, prompt),
            graph.text(clip, negative),
            torch.zeros_like(start),
            seed=0,
            disable_pbar=True,
        )
        drawn.append(vae.decode(latents / (1 + last**2) ** 0.5))  # diffusers' latents keep the length 1
    return torch.cat(drawn).movedim(-1, 1).clone()


def main(given, drawn, prompts, negative, sigmas, cfg, concept, file):
    """``given``: a file with the noise; pictures go to ``drawn``; ``file``: the membrane that diffusers has saved."""
    noise = torch.load(given, weights_only=True)
    model, clip, vae = graph.node("DemoModel")
    ((loaded,),) = graph.node("Load", file, 1.0, "words")
    forms = {
        "base": (model, clip),
        "cond": graph.apply(model, clip, [loaded], "cond"),
        "all": graph.apply(model, clip, [graph.changed(loaded, gate="always")], "all", "weights"),
    }
    made = {name: pictures(*form, vae, prompts, negative, noise, sigmas, cfg) for name, form in forms.items()}
    torch.save(made, drawn)
    (concepts,) = graph.node("Concepts", concept, "object", "")
    skipped = clip.clone()
    skipped.clip_layer(-2)
    receipts, skips = {}, {}
    for name, encoder in (("last", clip), ("skipped", skipped)):
        *_, (membrane,), receipts[name] = graph.node("Erase", model, encoder, concepts, "uce", 1.0, "")
        graph.node("Save", (membrane,), f"here-{name}", "native", "fp32", True)
        skips[name] = membrane.erasure.base["clip_skip"]
    refused = graph.refusal(graph.apply, model, skipped, [loaded])
    return {"receipts": receipts, "clip_skip": skips, "refused": refused}
