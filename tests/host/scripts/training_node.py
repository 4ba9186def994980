"""The training loop and the node Train in the host, on models of every kind."""

import comfy.model_management as management
import graph
import storage
import torch
import training

QUICK = "grid=4, draws=2, word_anchors=1, random_anchors=1"


def loop(options):
    """Losses of the first steps on the bundled model, as a node makes them."""
    model, clip, _ = graph.node("DemoModel")
    target = training.module("nodes.model").HostModel(model, clip)
    run, concepts = training.module("erasure_core.training.run"), training.module("erasure_core.concepts")
    with torch.inference_mode(False):
        wanted = concepts.concept_set("circle -> square")
        job = run.Job(target, wanted, "spm", "balanced", (), None, options)
        with job.opened() as trainer:
            begin_alike(trainer)
            return [trainer.update() for _ in range(4)]


def begin_alike(trainer):
    """Start values that do not depend on the order in which a host lists its layers."""
    with torch.no_grad():
        for i, name in enumerate(sorted(trainer.parameters)):
            if name.endswith(".down"):
                values = torch.randn(trainer.parameters[name].shape, generator=torch.Generator().manual_seed(i))
                trainer.parameters[name].copy_(values * 0.1)


def train(model, clip, name, steps, **more):
    (concepts,) = graph.node("Concepts", "circle -> square", "object", "star")
    options = ", ".join([QUICK, *(f"{key}={value}" for key, value in more.items())])
    return graph.node("Train", model, clip, concepts, "spm", "balanced", steps, 0, 0, name, options, None, 0)


def node(kind):
    """Two steps by the node, with little memory; whether the model is as before, and what came out."""
    model, clip = training.CASES[kind]()
    target = training.module("nodes.model").HostModel(model, clip)
    with target.open_denoiser(), target.open_text():
        pass  # from here on the host has the weights where it wants them
    before, words = training.state(model), training.state(clip.patcher)
    changed, _, (membrane,), previews, curve, _ = train(model, clip, "some", 2, checkpointing="yes", size=64)
    ups = [delta.up for delta in membrane.erasure.weight_deltas.values()]
    return {
        "wrong": training.unchanged(before, model) + training.unchanged(words, clip.patcher),
        "learned": all(bool(up.isfinite().all()) for up in ups) and all(bool(up.any()) for up in ups),
        "layers": len(ups),
        "previews": list(previews.shape),
        "curve": list(curve.shape),
        "another model": changed is not model,
    }


def cancel():
    """The button is pressed while step 3 is told of: how many steps the file has, and whether all is as before."""
    model, clip, _ = graph.node("DemoModel")
    with training.module("nodes.model").HostModel(model, clip).open_denoiser():
        pass
    before = training.state(model)
    host, pressed = training.module("nodes.host"), []

    def bar(total, node_id, real=host.progress):
        update = real(total, node_id)

        def told(done, picture=None):
            update(done, picture)
            if total == 7 and done == 3 and not pressed:
                pressed.append(done)
                management.interrupt_current_processing()

        return told

    with storage.replaced(host, progress=bar):
        stopped = graph.refusal(train, model, clip, "stopped", 7)
        wrong = training.unchanged(before, model)
        first = graph.node("Load", "stopped.safetensors", 1.0, "auto")[0][0].erasure.recipe["steps"]
        again = train(model, clip, "stopped", 7)
    whole = train(model, clip, "whole", 7)
    pairs = [
        (one, other)
        for one, other in zip(*(r[2][0].erasure.weight_deltas.values() for r in (again, whole)), strict=True)
    ]
    return {
        "stopped": stopped,
        "wrong": wrong,
        "steps": first,
        "bitwise": all(torch.equal(a.up, b.up) and torch.equal(a.down, b.down) for a, b in pairs),
        "told": [again[5].splitlines()[0], whole[5].splitlines()[0]],
    }


ASKED = (loop, node, cancel)


def main(ask, **values):
    return {function.__name__: function for function in ASKED}[ask](**values)
