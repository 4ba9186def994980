"""Pictures that guidance terms push, as ComfyUI draws them: the core's terms on the host's own predictions."""

import importlib

import comfy.patcher_extension
import comfy.sampler_helpers
import comfy.samplers
import demo_pictures
import graph
import torch

CALL = comfy.patcher_extension.WrappersMP.CALC_COND_BATCH


def core():
    """The core's guidance as the host has loaded it."""
    return importlib.import_module(f"{graph.NAME}.erasure_core.guidance")


class Guided:
    """Asks for the texts of the terms in the host's own batch and hands back the pair that its guidance takes."""

    def __init__(self, clip, terms, cfg):
        self.clip, self.terms, self.cfg, self.run, self.ready, self.rows = clip, terms, cfg, None, {}, []

    def __call__(self, executor, model, conds, x, timestep, options, *rest, **more):
        guidance = core()
        sampling, sigma = model.model_sampling, float(timestep[0])
        schedule = options["transformer_options"]["sample_sigmas"].tolist()
        if self.run is None or sigma == schedule[0]:
            self.run = guidance.Run(self.terms, self.cfg, schedule)
        at = guidance.Moment(sigma, guidance.HostClock(sampling.percent_to_sigma).progress(sigma))
        needs = self.run.needs(at, x.shape)
        positive, negative = conds
        first = self.conds(needs.stand_in, model, x) if needs.stand_in else negative
        asked = [self.conds(text, model, x) for text in needs.texts]
        found = executor(model, [positive, first, *asked], x, timestep, options, *rest, **more)
        self.rows.append(len(found))
        given = guidance.Predictions(
            found[0], found[1], x, guidance.Units.variance_exploding(sigma), at, self.cfg,
            dict(zip(needs.texts, found[2:], strict=True)), stand_in=needs.stand_in,
        )  # fmt: skip
        return list(self.run.inject(given))

    def conds(self, text, model, x):
        """A text as the host's own conditioning for this latent."""
        if text not in self.ready:
            converted = comfy.sampler_helpers.convert_cond(graph.text(self.clip, text))
            self.ready[text] = comfy.samplers.process_conds(model, x, {"positive": converted}, x.device)["positive"]
        return self.ready[text]


def main(given, drawn, prompts, negative, sigmas, cfg, methods):
    """``methods``: name -> method, concepts, options as text; pictures by name go to ``drawn``."""
    noise = torch.load(given, weights_only=True)
    model, clip, vae = graph.node("DemoModel")
    made, counts = {}, {}
    for name, (method, concepts, options) in methods.items():
        guided = Guided(clip, [core().make_with(method, concepts, options)], cfg)
        pushed = model.clone()
        pushed.add_wrapper_with_key(CALL, "guidance", guided)
        made[name] = demo_pictures.pictures(pushed, clip, vae, prompts, negative, noise, sigmas, cfg)
        counts[name] = guided.rows[: len(sigmas) - 1]
    made["plain"] = demo_pictures.pictures(model, clip, vae, prompts, negative, noise, sigmas, cfg)
    torch.save(made, drawn)
    return counts
