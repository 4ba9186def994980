"""Policy files of the Concept Firewall: which are listed, their index, changes, and what is refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import folder_paths
import graph
from firewall import models, wall

FORMS = {
    "list.txt": "circle | disc -> square\nheart -> star\n",
    "sub/rules.json": '{"rules": [{"concept": "circle", "aliases": ["disc"], "anchor": "square"}, '
    '{"concept": "heart", "anchor": "star"}]}',
    "table.csv": "concept,aliases,anchor\ncircle,disc,square\nheart,,star\n",
}
if sys.version_info >= (3, 11):
    FORMS["rules.toml"] = (
        '[[rules]]\nconcept = "circle"\naliases = ["disc"]\nanchor = "square"\n'
        '[[rules]]\nconcept = "heart"\nanchor = "star"\n'
    )
CLASS = graph.PACK.NODE_CLASS_MAPPINGS["MembraneFirewall"]


def listed():
    folder_paths.filename_list_cache.clear()
    return CLASS.INPUT_TYPES()["required"]["policy"][0]


def changed(policy):
    return CLASS.IS_CHANGED(policy, sensitivity=0.5, vectors=True)


def state(path):
    facts = path.stat()
    return [facts.st_mtime_ns, facts.st_ino]  # a file that is written again has another one


def forms(model, clip, folder):
    """Every form says the same, with the same effect."""
    result, first = {}, None
    for name, text in FORMS.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")
    (folder / "notes.md").write_text("circle", encoding="utf-8")
    result["listed"] = listed()
    for name in FORMS:
        guarded, encoder = wall(model, clip, rules="", policy=name)
        seen = graph.predictions(guarded, *graph.text_pair(encoder, "a heart on a circle"), batch=1)
        first = seen if first is None else first
        result[name] = graph.same(seen, first)
    base = graph.predictions(model, *graph.text_pair(clip, "a heart on a circle"), batch=1)
    result["acts"] = graph.difference(first, base)
    result["listed afterwards"] = listed()  # their indexes lie beside them and are no policies
    result["indexes"] = sorted(p.name for p in folder.rglob("*.safetensors"))
    return result


def index(model, clip, folder):
    """Made once, used again, made anew for another policy; a damaged one is named."""
    policy, place = folder / "one.txt", folder / "one.txt.index.safetensors"
    policy.write_text("circle -> square\n", encoding="utf-8")
    listed()
    wall(model, clip, rules="", policy="one.txt", vectors=False)
    result = {"without vectors": place.exists()}
    wall(model, clip, rules="", policy="one.txt")
    first, was = state(place), changed("one.txt")
    guarded, _ = wall(model, clip, rules="", policy="one.txt")
    result["used again"] = state(place) == first
    result["the same, unchanged"] = changed("one.txt") == was
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "")
    result["gains by it"] = list(graph.gains(guarded, *prompts).values())
    plain = graph.predictions(model, *prompts, batch=1)
    result["acts by it"] = graph.difference(graph.predictions(guarded, *prompts, batch=1), plain)
    policy.write_text("heart -> star\n", encoding="utf-8")
    result["another, changed"] = changed("one.txt") != was
    guarded, _ = wall(model, clip, rules="", policy="one.txt")
    result["made anew"] = state(place) != first
    result["circle passes now"] = graph.same(graph.predictions(guarded, *prompts, batch=1), plain)
    place.write_bytes(place.read_bytes()[:100])
    result["damaged"] = graph.refusal(wall, model, clip, rules="", policy="one.txt")
    return result


def joined(model, clip, folder):
    """A file and connected concepts make one policy."""
    (folder / "moon.txt").write_text("moon -> ring\n", encoding="utf-8")
    listed()
    guarded, encoder = wall(model, clip, rules="circle -> square", policy="moon.txt")
    with graph.events() as sent:
        graph.predictions(guarded, *graph.text_pair(encoder, "a moon on a circle"), batch=1, sigmas=(3.0,))
    return sorted(sent[0][1]["membranes"])


def refused(model, clip, folder):
    (folder / "broken.json").write_text('{"rules": [{"concpt": "circle"}]}', encoding="utf-8")
    (folder / "strict.json").write_text('[{"concept": "circle", "sensitivity": 0}]', encoding="utf-8")
    listed()
    cases = {
        "nothing": ("", "(none)"),
        "gone": ("", "gone.json"),
        "gone, with concepts": ("circle", "gone.json"),
        "outside": ("", "../../../x.json"),
        "broken": ("", "broken.json"),
        "two sensitivities": ("circle", "strict.json"),
    }
    return {
        name: graph.refusal(wall, model, clip, rules=rules, policy=policy) for name, (rules, policy) in cases.items()
    }


def read_only(model, clip, folder):
    """The receipt where the index cannot be kept; None where this user may not mount a disk."""
    disk, mount = folder / "disk", shutil.which("mount")
    disk.mkdir()
    if mount is None or subprocess.run([mount, "-t", "tmpfs", "tmpfs", str(disk)], check=False).returncode:
        return None
    try:
        (disk / "p.txt").write_text("circle -> square\n", encoding="utf-8")
        subprocess.run([mount, "-o", "remount,ro", str(disk)], check=True)
        listed()
        guarded, encoder, receipt = graph.node("Firewall", model, clip, "disk/p.txt", 0.5, True)
        prompts = graph.text_pair(encoder, "a red circle")
        acts = graph.difference(*(graph.predictions(form, *prompts, batch=1) for form in (guarded, model)))
        return {"receipt": receipt, "acts": acts, "files": sorted(path.name for path in disk.iterdir())}
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def main():
    model, clip = models("demo")
    folder = Path(folder_paths.get_folder_paths("membrane_policies")[0])
    folder.mkdir(parents=True, exist_ok=True)
    parts = (forms, index, joined, refused, read_only)
    return json.loads(json.dumps({part.__name__: part(model, clip, folder) for part in parts}))
