"""The example workflows in the form that /prompt takes, as the page makes it; test_frontend.py compares the two."""

import json

from comfy import ROOT

EXAMPLES = (
    "erase_a_shape",
    "load_chain_and_save",
    "concept_firewall",
    "chain_of_membranes",
    "windowed_negative",
    "safe_latent_diffusion",
    "negative_at_cfg_1",
    "text_attention_output",
    "train_an_erasure",
)
WIDGETS = {"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"}
NOTES = {"MarkdownNote", "Note"}  # of the page only


def example(name):
    """A workflow as it is saved."""
    return json.loads((ROOT / "example_workflows" / f"{name}.json").read_text(encoding="utf-8"))


def prompt_of(workflow, known):
    """``known``: /object_info. Values of widgets are stored by position, those of linked widgets, too."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in NOTES:
            continue
        values = iter(node.get("widgets_values") or ())
        inputs = {}
        for name, spec in _inputs(known[node["type"]]).items():
            kind, options = spec[0], spec[1] if len(spec) > 1 else {}
            if isinstance(kind, list) or kind in WIDGETS:
                inputs[name] = next(values, options.get("default"))  # of a workflow from before the input came
                if name in ("seed", "noise_seed") or options.get("control_after_generate"):
                    next(values)
        inputs |= {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot.get("link") is not None}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def _inputs(info):
    return {**info["input"].get("required", {}), **info["input"].get("optional", {})}
