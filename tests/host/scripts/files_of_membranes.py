"""Saving and loading through the nodes: names, content, what a workflow remembers, and what it makes of that."""

from pathlib import Path

import folder_paths
import graph
import torch


def workflow(reference, node_id):
    """What the host hands a node of the workflow it runs in; an id like 5:12 is a node inside a subgraph."""
    own = {"id": int(node_id.rpartition(":")[2]), "type": "MembraneLoad", "properties": {"membrane": reference}}
    other = {"id": 3, "type": "KSampler", "properties": {}}
    if ":" in node_id:
        inside = {"id": "some-uuid", "nodes": [other, own]}
        return {"workflow": {"nodes": [{"id": 12, "type": "Note"}], "definitions": {"subgraphs": [inside]}}}
    return {"workflow": {"nodes": [other, own]}}


def load(name, reference=None, node_id="5", strength=1.0, gate="always", chain=None):
    """(list, note, reference) of Load Membrane."""
    known = None if reference is None else workflow(reference, node_id)
    out = graph.run("Load", name, strength, gate, chain, unique_id=node_id, extra_pnginfo=known)
    (panel,), (found,) = out["ui"]["membrane"], out["ui"]["reference"]
    return out["result"][0], panel["entries"][0]["notes"], found


def save(some, name, form="native", overwrite=False, graph_of=(None, None)):
    return graph.node("Save", tuple(some), name, form, "fp32", overwrite, *graph_of)[0]


def equal(one, other):
    """Whether two erasures have bitwise the same maps."""
    return one.maps.keys() == other.maps.keys() and all(
        graph.same(a.down, b.down) and graph.same(a.up, b.up)
        for space in one.maps
        for a, b in zip(one.maps[space].factors, other.maps[space].factors, strict=True)
    )


def folder():
    return Path(folder_paths.get_folder_paths("membranes")[0])


def by_name(some):
    original = some[0].erasure
    listed = save(some, "sub/no-circle")
    loaded, notes, reference = load(listed)
    windows, _, _ = load("sub\\no-circle.safetensors")
    state = graph.PACK.NODE_CLASS_MAPPINGS["MembraneLoad"].IS_CHANGED
    before = state("sub/no-circle.safetensors")
    choices = graph.PACK.NODE_CLASS_MAPPINGS["MembraneLoad"].INPUT_TYPES()["required"]["file"][0]
    result = {
        "listed": listed,
        "choices": choices,
        "inside": (folder() / listed).is_file(),
        "equal": equal(loaded[0].erasure, original),
        "windows": equal(windows[0].erasure, original),
        "notes": notes,
        "reference": sorted(reference),
        "saved with backslash": save(some, "other\\no-circle"),
        "with a date": save(some, "%year%/no-circle"),
        "changed": [state("nothing.safetensors")],
    }
    (folder() / listed).write_bytes((folder() / listed).read_bytes() + b"")
    result["changed"] += [before == state(listed), before != state(listed)]
    return result


def moved(some, model, clip):
    """A file that was renamed, and one that is gone."""
    original = some[0].erasure
    listed = save(some, "before")
    _, _, reference = load(listed)
    path = folder() / listed
    path.rename(folder() / "after.safetensors")
    result = {}
    for node_id in ("5", "5:12"):
        found, notes, again = load(listed, reference, node_id)
        result[f"renamed {node_id}"] = [found[0].label, notes, equal(found[0].erasure, original), again == reference]
    decoy = folder() / "decoy.safetensors"
    decoy.write_bytes(bytes(reference["bytes"]))  # of the very size
    (folder() / "after.safetensors").unlink()
    prompts = graph.text(clip, "a red moon"), graph.text(clip, "blurred")
    picture = graph.draw(graph.apply(model, clip, some)[0], *prompts)
    for node_id in ("5", "5:12"):
        found, notes, again = load(listed, reference, node_id)
        out = graph.run("Apply", model, clip, found, "all", "text")["result"]
        saved = save(found, f"again {node_id[-1]}", graph_of=(model, clip))
        result[f"gone {node_id}"] = {
            "label": found[0].label,
            "notes": notes,
            "remembered": again == reference,
            "receipt": out[2].splitlines()[-1],
            "picture, bitwise": graph.same(graph.draw(out[0], *prompts), picture),
            "maps, bitwise": equal(load(saved)[0][0].erasure, original),
        }
        (folder() / saved).unlink()
    words, _, _ = load(listed, reference, gate="words")
    mapped, encoder = graph.apply(model, clip, words, "cond", node_id="7")
    result["gone, gate of words"] = {
        prompt: graph.gains(mapped, graph.text(encoder, prompt), graph.text(encoder, ""))[prompt]
        for prompt in ("a red moon", "a red star")
    }
    elsewhere = {"unique_id": "6:3", "extra_pnginfo": workflow(reference, "5:12")}  # 3 is no loader
    result["gone, other node"] = graph.refusal(graph.run, "Load", listed, 1.0, "always", **elsewhere)
    result["gone, nothing known"] = graph.refusal(load, listed)
    decoy.unlink()
    return result


def again(some, other):
    """Saving twice: the same content, other content, and other content over it."""
    names = [save(some, "twice")]
    path = folder() / names[0]
    before = path.stat().st_mtime_ns, path.read_bytes()
    names += [save(some, "twice"), save(other, "twice"), save(other, "twice"), save(some, "twice")]
    kept = (path.stat().st_mtime_ns, path.read_bytes()) == before
    names.append(save(other, "twice", overwrite=True))
    return {
        "names": names,
        "first is untouched": kept,
        "overwritten": path.read_bytes() == (folder() / "twice-2.safetensors").read_bytes() != before[1],
        "files": sorted(file.name for file in folder().glob("twice*")),
    }


def chained(some, other, model, clip):
    first, _, _ = load(save(some, "first"), strength=0.5)
    both, _, _ = load(save(other, "second"), strength=-2.0, gate="words", chain=first)
    text = graph.node("Inspect", both)[0]
    listed = save([graph.changed(some[0], strength=0.5), *other], "sum")
    total, _, _ = load(listed)
    lora = save([graph.changed(some[0], strength=0.5), *other], "sum", "lora", graph_of=(model, clip))
    prompts = graph.text(clip, "a red circle and a heart"), graph.text(clip, "blurred")
    listed_lora, _, _ = load(lora)

    def drawn(given):
        return graph.predictions(graph.apply(model, clip, given)[0], *prompts)

    apart = drawn([graph.changed(some[0], strength=0.5), *other])
    return {
        "list": [[m.label, m.strength, m.gate] for m in both],
        "inspected": [line for line in text.splitlines() if "strength" in line],
        "sum of files": graph.difference(drawn(total), apart),
        "acts": graph.difference(apart, graph.predictions(model, *prompts)),
        "lora": lora,
        "sum as a lora": graph.difference(drawn(listed_lora), apart),
    }


def main():
    model, clip, _ = graph.node("DemoModel")
    some, other = graph.membranes(model, clip), graph.membranes(model, clip, "heart -> star")
    torch.manual_seed(0)
    return {
        "by name": by_name(some),
        "moved": moved(graph.membranes(model, clip, "moon -> ring"), model, clip),
        "again": again(some, other),
        "chained": chained(some, other, model, clip),
        "place": folder().parts[-2:],
    }
