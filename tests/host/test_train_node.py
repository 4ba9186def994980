"""Train in a real server: what the node shows, cancel and going on, files, refusals; the model stays as it was."""

import json
import time

import pytest
import torch
from events import listening
from graphs import Client, Graph, applied, drawn
from graphs import demo as bundled
from safetensors import safe_open

from erasure_core.formats import load

QUICK = "grid=6, draws=2, scope=xattn-kv, lr=0.01"  # steps of a tenth of a second
STEPS = 40


@pytest.fixture(scope="module")
def client(comfy_server):
    return Client(comfy_server, "training")


@pytest.fixture(scope="module")
def folder(comfy_server):
    return comfy_server.base / "models" / "membranes"


def trained(graph, model, clip, name, **inputs):
    """Train: the node, and the id of it."""
    wanted = graph.add("MembraneConcepts", text="circle -> square", kind="object", preserve="star")
    given = {"method": "spm", "preset": "balanced", "steps": STEPS, "rank": 0, "training_seed": 3, "name": name}
    given |= {"options": QUICK, "preview_every": 0, **inputs}
    return graph.add("MembraneTrain", model=model, clip=clip, concepts=wanted(), **given)


def whole(client, name, **inputs):
    """A graph that only trains, and the id of the node."""
    graph = Graph()
    model, clip, _ = bundled(graph)
    return graph, trained(graph, model, clip, name, **inputs)


def contents(path):
    """Tensors, and the description without dates, times and counts of work."""
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
        told = {key: json.loads(text) if text[:1] in "{[" else text for key, text in file.metadata().items()}

    def plain(value):
        if not isinstance(value, dict):
            return value
        varies = ("date", "seconds", "rows_forward", "rows_backward", "created", "modelspec.date")
        return {key: plain(inner) for key, inner in value.items() if key not in varies}

    return tensors, plain(told)


def steps_of(messages, node):
    """Steps that the node has told of; its other bars are of prompts that it encodes."""
    told = [m["data"] for m in messages if m["type"] == "progress" and m["data"]["node"] == node]
    return [data["value"] for data in told if data["max"] == STEPS]


def lines_of(messages, node):
    """Lines of text on the node."""
    return [m["data"]["text"] for m in messages if m["type"] == "binary" and m["data"].get("node") == node]


def started(heard, node, step):
    """Wait until the node has made so many steps."""
    for _ in range(2400):
        if max(steps_of(heard.messages(), node), default=0) >= step:
            return
        time.sleep(0.05)
    raise AssertionError("training did not begin")


@pytest.fixture(scope="module")
def uninterrupted(client, folder, tmp_path_factory):
    """One training from beginning to end, with the picture of the plain model before and after it."""
    graph = Graph()
    model, clip, vae = bundled(graph)
    before = drawn(graph, model, clip, vae, "a red circle", seed=31)
    outputs = client.run(graph)
    node = trained(graph, model, clip, "whole", vae=vae, preview_every=20)
    changed = drawn(graph, node(0), node(1), vae, "a red circle", seed=31)
    star = drawn(graph, node(0), node(1), vae, "a blue star", seed=32)
    previews = graph.add("SaveImage", images=node(3), filename_prefix="previews")()[0]
    curve = graph.add("SaveImage", images=node(4), filename_prefix="curve")()[0]
    said = graph.add("PreviewAny", source=node(5))()[0]
    with listening(client, tmp_path_factory.mktemp("heard")) as heard:
        outputs |= client.run(graph)
        heard.all("progress")
        messages = heard.messages()
    again = Graph()
    model, clip, vae = bundled(again)
    after = drawn(again, model, clip, vae, "a red circle", seed=31)
    again[after]["inputs"]["filename_prefix"] = "after"
    plain = drawn(again, model, clip, vae, "a blue star", seed=32)
    outputs_after = client.run(again)
    return {
        "node": node()[0],
        "messages": messages,
        "before": client.picture(outputs, before),
        "changed": client.picture(outputs, changed),
        "after": client.picture(outputs_after, after),
        "star": client.picture(outputs, star),
        "plain star": client.picture(outputs_after, plain),
        "previews": outputs[previews]["images"],
        "curve": outputs[curve]["images"],
        "receipt": outputs[said]["text"][0],
        "panel": outputs[node()[0]]["membrane"][0],
        "file": folder / "whole.safetensors",
    }


def test_what_was_trained_is_applied_and_the_model_stays(uninterrupted):
    found = uninterrupted
    assert found["changed"] != found["before"] == found["after"]
    assert found["star"] == found["plain star"]  # the gate is closed
    (entry,) = found["panel"]["entries"]
    assert (entry["name"], entry["act_on"]) == ("without circle", "layers")


def test_the_file_says_what_it_is(uninterrupted):
    erasure = load(uninterrupted["file"])
    assert erasure.recipe["method"] == "spm" and erasure.recipe["steps"] == STEPS and erasure.recipe["seeds"] == [3]
    assert erasure.gate["neighbours"] == ["star"] and len(erasure.weight_deltas) == 8
    assert not list(uninterrupted["file"].parent.rglob("*.training"))
    first, second = uninterrupted["receipt"].splitlines()[:2]
    assert first.startswith(f"trained with spm: {STEPS} steps in ") and second == "file: whole.safetensors"


def test_progress_loss_and_previews_are_on_the_node(uninterrupted):
    node, messages = uninterrupted["node"], uninterrupted["messages"]
    steps = steps_of(messages, node)
    assert steps == sorted(steps) and steps[-1] == STEPS and len(set(steps)) >= 3  # newer hosts leave most of them out
    pictures = [m["data"]["size"] for m in messages if m["type"] == "binary" and m["data"]["kind"] in (1, 4)]
    assert len(pictures) >= 2 and min(pictures) > 500
    lines = lines_of(messages, node)
    assert lines[-1].startswith(f"step {STEPS}/{STEPS} · loss ")
    assert any(line.endswith(" left") for line in lines)
    assert len(uninterrupted["previews"]) == 3  # before, 20, 40
    assert len(uninterrupted["curve"]) == 1


def test_cancel_keeps_what_was_learned_and_queueing_again_goes_on(client, folder, uninterrupted, tmp_path):
    graph, node = whole(client, "sub/stopped")
    with listening(client, tmp_path) as heard:
        prompt = client.queue(graph)
        started(heard, node()[0], 12)
        client.post("/interrupt", {})
        entry = client.wait(prompt)
        heard.all("progress")
        messages = heard.messages()
    last, lines = max(steps_of(messages, node()[0])), lines_of(messages, node()[0])
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert kinds[-1] == "execution_interrupted" and not entry["status"]["completed"]
    path = folder / "sub" / "stopped.safetensors"
    stopped = load(path)
    steps = stopped.recipe["steps"]
    assert last <= steps < STEPS  # newer hosts do not tell of every step
    assert f"stopped at step {steps}/{STEPS}; what was learned is in sub/stopped.safetensors" in lines[-1]
    assert len(list(folder.rglob("*.training"))) == 1

    other = Graph()  # the next prompt runs, and what was learned so far is usable
    model, clip, vae = bundled(other)
    loaded = other.add("MembraneLoad", file="sub/stopped.safetensors", strength=1.0, gate="auto")
    plain = drawn(other, model, clip, vae, "a red circle", seed=31)
    other[plain]["inputs"]["filename_prefix"] = "next"
    partly = drawn(other, *applied(other, model, clip, loaded()), vae, "a red circle", seed=31)
    outputs = client.run(other)
    assert client.picture(outputs, plain) == uninterrupted["before"]  # base weights are bitwise what they were
    assert client.picture(outputs, partly) not in (uninterrupted["before"], uninterrupted["changed"])

    said = graph.add("PreviewAny", source=node(5))()[0]
    assert f"(went on from step {steps})" in client.run(graph)[said]["text"][0]
    tensors, told = contents(path)
    expected, wanted = contents(uninterrupted["file"])
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[n], expected[n]) for n in expected)
    assert told == wanted
    assert not list(folder.rglob("*.training"))


def test_other_trainings_and_foreign_files_are_never_overwritten(client, folder, uninterrupted):
    data = uninterrupted["file"].read_bytes()
    graph, _ = whole(client, "whole", steps=2, training_seed=4)
    client.run(graph)
    assert uninterrupted["file"].read_bytes() == data
    assert load(folder / "whole-2.safetensors").recipe["seeds"] == [4]


@pytest.mark.parametrize("method", ["esd", "mace_lora", "few_shot", "slug"])
def test_other_methods_run(client, folder, method):
    options = {"mace_lora": "refine=no, ", "few_shot": "guard=0, "}.get(method, "") + "grid=6, draws=2"
    given = {"options": "top=1"} if method == "slug" else {"options": options, "steps": 2}
    graph, node = whole(client, f"by-{method}", **{"method": method, "steps": 0, **given})
    said = graph.add("PreviewAny", source=node(5))()[0]
    receipt = client.run(graph)[said]["text"][0]
    assert receipt.startswith(f"trained with {method}: {1 if method == 'slug' else 2} steps")
    erasure = load(folder / f"by-{method}.safetensors")
    assert erasure.recipe["method"] == method and erasure.weight_deltas
    of_text = [name for name in erasure.weight_deltas if name.startswith("text_encoder.")]
    assert len(of_text) == (len(erasure.weight_deltas) if method in ("few_shot", "slug") else 0)


def test_the_text_encoder_is_changed_as_in_diffusers(client, folder, demo):
    from erasure_core.training import train

    graph, _ = whole(client, "slug", method="slug", steps=0, options="top=1")
    client.run(graph)
    theirs = load(folder / "slug.safetensors").weight_deltas
    ours = train(demo, "circle -> square", "slug", preserve=["star"], top=1).weight_deltas
    assert theirs.keys() == ours.keys()
    for name, delta in ours.items():
        dense = delta.dense()
        assert (theirs[name].dense() - dense).norm() <= 1e-4 * dense.norm()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"options": "depth=3"}, "'spm' has no option 'depth'. Its options: "),
        ({"options": "rank=4"}, "'rank' is an input of its own."),
        ({"options": "lr"}, "'lr' is not an option. Write name=value"),
    ],
)
def test_wrong_options_are_refused_before_anything_runs(client, inputs, message):
    graph, _ = whole(client, "refused", **inputs)
    errors = client.refused(graph)["node_errors"]
    assert message in " ".join(error["details"] for node in errors.values() for error in node["errors"])


@pytest.mark.parametrize(
    ("name", "message"), [("", "The name of the file is empty."), ("../out", "lies outside the folder membranes")]
)
def test_wrong_names_are_refused_before_training(client, name, message):
    graph, _ = whole(client, name, steps=2)
    assert message in client.failed(graph)
