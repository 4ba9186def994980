"""Which of the names, attributes and calls that the nodes make exist in this ComfyUI."""

import importlib
import inspect

import comfy.patcher_extension
import comfy.utils
import graph
import server


def resolve(name):
    """The object of a dotted name; raises if there is none."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            found = getattr(found, attribute)
        return found
    raise AttributeError(name)


def objects(executor, model, clip, vae):
    """The host's own objects by the variable that holds one in our code; ``executor`` is the one around a sampling."""
    return {
        "patcher": model,
        "model": model,
        "clip": clip,
        "clone": clip.clone(),
        "guider": executor.class_obj,
        "executor": executor,
        "denoiser": model.model.diffusion_model,
        "network": model.model,
        "config": model.model.model_config,
        "vae": vae,
        "bar": comfy.utils.ProgressBar(1),
        "tokenizer": clip.tokenizer.clip_l,
        "instance": server.PromptServer,
    }


def missing(names, known):
    gone = []
    for name in names:
        root, _, rest = name.partition(".")
        try:
            found = known[root] if root in known else resolve(name)
            for attribute in rest.split(".") if root in known else ():
                found = getattr(found, attribute)
        except AttributeError:
            gone.append(name)
    return gone


def refused(calls, known):
    """Calls whose arguments the host's function does not take."""
    wrong = []
    for name, count, keywords in calls:
        if missing([name], known):
            continue  # said elsewhere
        root, _, rest = name.partition(".")
        found = known.get(root) or resolve(name)
        for attribute in rest.split(".") if root in known else ():
            found = getattr(found, attribute)
        if inspect.isbuiltin(found):
            continue  # of a plain dict or list
        unbound = root == "instance"  # the class stands for its only object
        try:
            inspect.signature(found).bind_partial(*[None] * (count + unbound), **dict.fromkeys(keywords))
        except TypeError as error:
            wrong.append([name, str(error)])
    return wrong


def check(known, names, attributes, calls, overrides):
    return {
        "names": missing(names, {}),
        "attributes": missing(attributes, known),
        "calls": refused(calls, known),
        "overrides": [[base, member] for base, member in overrides if not hasattr(resolve(base), member)],
        "objects": sorted(known),
        "control": [missing(["comfy.sd.NoSuchThing", "clip.no_such"], known), refused([["clip.clone", 9, []]], known)],
    }


def main(**wanted):
    model, clip, vae = graph.node("DemoModel")
    answer = {}

    def look(executor, *args, **kwargs):
        answer.update(check(objects(executor, model, clip, vae), **wanted))
        return executor(*args, **kwargs)

    model = model.clone()
    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.OUTER_SAMPLE, "test", look)
    graph.draw(model, graph.text(clip, "a"), graph.text(clip, ""), steps=1)
    return answer
