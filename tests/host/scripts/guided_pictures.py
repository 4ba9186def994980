"""Pictures that guidance terms push, as ComfyUI draws them with the node."""

import demo_pictures
import graph
import negative_guidance
import torch


def main(given, drawn, prompts, negative, sigmas, cfg, methods):
    """``methods``: name -> method, concepts, options as text; pictures by name go to ``drawn``."""
    noise = torch.load(given, weights_only=True)
    model, clip, vae = graph.node("DemoModel")
    made, counts = {}, {}
    for name, (method, concepts, options) in methods.items():
        settings = dict(part.split("=") for part in options.split(", ") if part)
        strength, mode = float(settings.pop("strength", 1.0)), settings.pop("mode", "whole")
        rest = ", ".join(f"{key}={value}" for key, value in settings.items())
        pushed = negative_guidance.guided(model, clip, concepts, method, strength, mode, options=rest)
        spied, rows = negative_guidance.counted(pushed)
        made[name] = demo_pictures.pictures(spied, clip, vae, prompts, negative, noise, sigmas, cfg)
        counts[name] = rows[: len(sigmas) - 1]
    made["plain"] = demo_pictures.pictures(model, clip, vae, prompts, negative, noise, sigmas, cfg)
    torch.save(made, drawn)
    return counts
