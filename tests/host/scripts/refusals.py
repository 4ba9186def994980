"""Everything a user can get wrong in the nodes, and what they are told."""

import pickle
import shutil
import subprocess
from pathlib import Path

import folder_paths
import graph
import tiny

CLASSES = graph.PACK.NODE_CLASS_MAPPINGS


def place(kind):
    return Path(folder_paths.get_folder_paths(kind)[0])


def of_models(model, clip, some):
    """MODEL, CLIP and membranes that do not belong together."""
    other = tiny.unet("sdxl"), tiny.text_encoder("sdxl")
    apply, refusal = graph.apply, graph.refusal
    (good,) = graph.node("Concepts", "circle -> square", "object", "")

    def erase(unet, encoder):
        return refusal(graph.run, "Erase", unet, encoder, good, "uce", 1.0, "")

    return {
        "erase: SD1 model, SDXL clip": erase(model, other[1]),
        "erase: SDXL model, SD1 clip": erase(other[0], clip),
        "erase: SDXL model, SD2 clip": erase(other[0], tiny.text_encoder("sd2")),
        "erase: SD1 model, SD2 clip": erase(model, tiny.text_encoder("sd2")),
        "SD1 model, SDXL clip": refusal(apply, model, other[1], some),
        "SDXL model, SD1 clip": refusal(apply, other[0], clip, some),
        "SD1 model, SD2 clip": refusal(apply, tiny.unet("sd1"), tiny.text_encoder("sd2"), some),
        "SDXL membrane on SD1": refusal(apply, model, clip, graph.membranes(*other)),
        "SD1 membrane on SDXL": refusal(apply, *other, some),
        "another text encoder": refusal(apply, tiny.unet(), tiny.text_encoder(seed=7), some),
        "another text encoder, weights": refusal(apply, tiny.unet(), tiny.text_encoder(seed=7), some, act_on="weights"),
    }


def of_erasing(model, clip):
    """Options and concepts: what the node says before anything runs, and when it runs."""
    (good,) = graph.node("Concepts", "circle -> square", "object", "")
    erase, concepts = CLASSES["MembraneErase"], CLASSES["MembraneConcepts"]
    result = {}
    for name, text in {
        "unknown option": "lamda=0.1",
        "out of range": "lamb=-1",
        "no number": "lamb=much",
        "not an option": "strong",
    }.items():
        said = graph.refusal(graph.run, "Erase", model, clip, good, "uce", 1.0, text)
        result[name] = [said, erase.VALIDATE_INPUTS("uce", text)]
    for name, text in {
        "nothing": "",
        "only comments": "# circle\n\n+ star",
        "only an arrow": "-> square",
        "ten thousand words": "word " * 10_000 + "-> square",
        "erased and preserved": "circle -> square\n+ circle",
    }.items():
        said = graph.refusal(solve, model, clip, text)
        result[name] = [said, concepts.VALIDATE_INPUTS(text, "object", "")]
    return result


def solve(model, clip, text):
    (concepts,) = graph.node("Concepts", text, "object", "")
    graph.run("Erase", model, clip, concepts, "uce", 1.0, "")


def of_loading(some):
    """Files that are missing, damaged, or not what they are called."""
    whole = (place("membranes") / graph.node("Save", some, "whole", "native", "fp32", False)[0]).read_bytes()
    (place("membranes") / "cut.safetensors").write_bytes(whole[: len(whole) // 2])
    (place("membranes") / "empty.safetensors").write_bytes(b"")
    place("loras").mkdir(exist_ok=True)
    (place("loras") / "pickle.safetensors").write_bytes(pickle.dumps({"a": [1.0]}))
    (place("loras") / "picture.safetensors").write_bytes(b"\x89PNG\r\n" + bytes(1000))
    names = {
        "missing": "nowhere.safetensors",
        "not chosen": "(no file yet)",
        "outside": "../../whole.safetensors",
        "absolute": str(place("membranes") / "whole.safetensors"),
        "cut off": "cut.safetensors",
        "empty": "empty.safetensors",
        "pickle": "loras/pickle.safetensors",
        "picture": "loras/picture.safetensors",
    }
    return {case: graph.refusal(graph.run, "Load", name, 1.0, "always") for case, name in names.items()}


def of_saving(some):
    names = {
        "outside": "../x",
        "outside, backslash": "..\\x",
        "far outside": "a/../../x",
        "absolute": "/x/y",
        "drive": "C:\\x",
        "empty": "",
        "spaces": "   ",
        "a folder": "a/",
    }
    before = sorted(place("membranes").parent.rglob("*"))
    said = {case: graph.refusal(graph.run, "Save", some, name, "native", "fp32", True) for case, name in names.items()}
    said["lora without a model"] = graph.refusal(graph.run, "Save", some, "x", "lora", "fp32", True)
    said["no membrane"] = graph.refusal(graph.run, "Save", (), "x", "native", "fp32", True)
    return {**said, "nothing written": sorted(place("membranes").parent.rglob("*")) == before}


def of_a_full_disk(some):
    """Saving where there is no room; None where this user may not mount a small disk."""
    disk, mount = place("membranes") / "disk", shutil.which("mount")
    disk.mkdir()
    command = [mount or "mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(disk)]
    if mount is None or subprocess.run(command, capture_output=True, check=False).returncode:
        return None
    try:
        old = graph.node("Save", some, "disk/kept", "native", "fp32", True)[0]
        before = (place("membranes") / old).read_bytes()
        (disk / "filler").write_bytes(bytes(4096 * (3 - -(-len(before) // 4096))))
        said = graph.refusal(graph.run, "Save", some * 2, "disk/kept", "native", "fp32", True)
        kept = (place("membranes") / old).read_bytes() == before
        return {"said": said, "kept": kept, "files": sorted(path.name for path in disk.iterdir())}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def of_gates(model, clip, some):
    """A gate that needs words, on a file that has none."""
    bare = type(some[0])(type(some[0].erasure)(maps=some[0].erasure.maps))
    return {
        "words": graph.refusal(graph.changed, bare, gate="words"),
        "strength": graph.refusal(graph.changed, some[0], strength=float("nan")),
        "act_on": graph.refusal(graph.apply, model, clip, some, "all", "everything"),
        "rows": graph.refusal(graph.apply, model, clip, some, "some"),
        "empty": graph.refusal(graph.apply, model, clip, [type(some[0])(type(some[0].erasure)())]),
    }


def main():
    model, clip, _ = graph.node("DemoModel")
    some = graph.membranes(model, clip)
    return {
        "models": of_models(model, clip, some),
        "erasing": of_erasing(model, clip),
        "loading": of_loading(some),
        "saving": of_saving(some),
        "disk": of_a_full_disk(some),
        "gates": of_gates(model, clip, some),
    }
