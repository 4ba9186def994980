"""Graphs through /prompt in a real server: receipts, live gains, caching, files, refusals, cancelling."""

import json

import pytest
from events import listening
from graphs import Client, Graph, applied, demo, drawn, erased


@pytest.fixture(scope="module")
def client(comfy_server):
    return Client(comfy_server, "tests")


@pytest.fixture
def base():
    graph = Graph()
    return graph, *demo(graph)


def test_erasing_in_a_graph_shows_a_receipt_and_another_picture(client, base):
    graph, model, clip, vae = base
    before = drawn(graph, model, clip, vae, "a red circle", seed=11)
    *changed, membranes = erased(graph, model, clip)
    after = drawn(graph, *changed, vae, "a red circle", seed=11)
    inspected = graph.add("MembraneInspect", membranes=membranes)()[0]
    outputs = client.run(graph)
    assert client.picture(outputs, before) != client.picture(outputs, after)
    (panel,) = outputs[membranes[0]]["membrane"]
    (entry,) = panel["entries"]
    assert (entry["family"], entry["matched"], entry["total"], entry["warnings"]) == ("sd1", 8, 8, [])
    assert 0 < entry["norm"] < 5 and 0 < entry["drift"] < 0.1
    (text,) = outputs[inspected]["membrane"]
    assert "erases     circle -> square [object]" in text["text"]


def test_off_is_bitwise_off_and_on_is_not(client, base):
    graph, model, clip, vae = base
    nodes = [drawn(graph, model, clip, vae, "a blue circle", seed=12)]
    for strength in (0.0, 1.0):
        *changed, _ = erased(graph, model, clip, strength=strength)
        nodes.append(drawn(graph, *changed, vae, "a blue circle", seed=12))
    outputs = client.run(graph)
    plain, off, on = (client.picture(outputs, node) for node in nodes)
    assert plain == off and plain != on


def test_gains_arrive_when_only_the_text_has_changed(client, comfy_server, base, tmp_path):
    """Apply is cached in the second run, yet the node hears what its membranes did to the new prompt."""
    graph, model, clip, vae = base
    *_, membranes = erased(graph, model, clip)
    saved = graph.add(
        "MembraneSave", membranes=membranes, name="gains", form="native", precision="fp32", overwrite=True
    )
    client.run(graph)
    loaded = graph.add("MembraneLoad", file="gains.safetensors", strength=0.8, gate="words")
    changed = applied(graph, model, clip, loaded())
    drawn(graph, *changed, vae, "a red circle", seed=13)
    with listening(client, tmp_path) as heard:
        client.run(graph)
        first = heard.all("membrane.gains")
        text = next(node for node in graph.values() if node["inputs"].get("text") == "a red circle")
        text["inputs"]["text"] = "a green star"
        client.run(graph)
        second = heard.all("membrane.gains")[len(first) :]
        cached = heard.all("execution_cached")[-1]["nodes"]
    assert changed[0][0] in cached and saved()[0] in cached
    for events, prompt, gain in ((first, "a red circle", 0.8), (second, "a green star", 0.0)):
        (event,) = events
        assert event["node_id"] == changed[0][0]
        assert (event["text"], event["mode"], event["negative"]) == (prompt, "exact", False)
        assert event["panel"]["entries"][0]["total"] == 8  # for a page that was reloaded
        assert event["membranes"] == ["gains"] and event["gains"] == [[pytest.approx(gain)]]
    assert first[0]["run"] != second[0]["run"] and first[0]["prompt"] != second[0]["prompt"]


def test_a_repeated_run_is_cached_and_a_changed_file_is_not(client, comfy_server, base, tmp_path):
    graph, model, clip, vae = base
    *_, membranes = erased(graph, model, clip, "star -> heart")
    graph.add("MembraneSave", membranes=membranes, name="sub/again", form="native", precision="fp32", overwrite=True)
    client.run(graph)
    loaded = graph.add("MembraneLoad", file="sub/again.safetensors", strength=1.0, gate="always")
    changed = applied(graph, model, clip, loaded())
    node = drawn(graph, *changed, vae, "a red star", seed=14)
    first = client.picture(client.run(graph), node)
    with listening(client, tmp_path) as heard:
        client.run(graph)
        assert {loaded()[0], changed[0][0], node} <= set(heard.all("execution_cached")[-1]["nodes"])
        wanted = next(n for n in graph.values() if n["class_type"] == "MembraneConcepts")
        wanted["inputs"]["text"] = "star -> moon"
        client.run(graph)  # the file is written after it was read, so this run still shows the old one
        second = client.picture(client.run(graph), node)
    assert first != second


def test_what_cannot_work_is_refused_before_anything_runs(client, base):
    graph, model, clip, _ = base
    *_, membranes = erased(graph, model, clip, "circle -> circle", options="depth=3")
    graph.add("MembraneInspect", membranes=membranes)
    errors = client.refused(graph)["node_errors"]
    messages = " ".join(error["details"] for node in errors.values() for error in node["errors"])
    assert "Line 1, column 1" in messages and "would be replaced by itself" in messages
    assert "'uce' has no option 'depth'. Its options: " in messages and "generation (2025 | 2023" in messages


def test_a_file_that_is_nowhere_is_one_sentence(client, base):
    graph, model, clip, vae = base
    loaded = graph.add("MembraneLoad", file="../../etc/passwd", strength=1.0, gate="always")
    drawn(graph, *applied(graph, model, clip, loaded()), vae, "a red circle")
    message = client.failed(graph)
    assert message.startswith("'../../etc/passwd' is not in models/membranes or models/loras")
    assert "Put the file there, or choose another one." in message


def test_a_missing_file_is_solved_from_the_recipe_in_the_workflow(client, comfy_server, base):
    """What the page keeps in the node's properties is all another machine needs."""
    graph, model, clip, vae = base
    *changed, membranes = erased(graph, model, clip, "moon -> ring")
    expected = drawn(graph, *changed, vae, "a red moon", seed=15)
    graph.add("MembraneSave", membranes=membranes, name="lost", form="native", precision="fp32", overwrite=True)
    picture = client.picture(client.run(graph), expected)
    folder = comfy_server.base / "models" / "membranes"

    other = Graph()
    model, clip, vae = demo(other)
    loaded = other.add("MembraneLoad", file="lost.safetensors", strength=1.0, gate="always")
    changed = applied(other, model, clip, loaded())
    node = drawn(other, *changed, vae, "a red moon", seed=15)
    outputs = client.run(other)
    (reference,) = outputs[loaded()[0]]["reference"]
    assert client.picture(outputs, node) == picture
    remembered = {"id": int(loaded()[0]), "type": "MembraneLoad", "properties": {"membrane": reference}}
    workflow = json.loads(json.dumps({"nodes": [remembered]}))

    (folder / "lost.safetensors").rename(folder / "renamed.safetensors")
    outputs = client.run(other, extra_pnginfo={"workflow": workflow})
    assert outputs[loaded()[0]]["membrane"][0]["entries"][0]["notes"] == [
        "'lost.safetensors' is now called 'renamed.safetensors': found by its content"
    ]
    (folder / "renamed.safetensors").unlink()
    for seed_of in other.values():
        if seed_of["class_type"] == "SaveImage":
            seed_of["inputs"]["filename_prefix"] = "solved"
    loader = other[loaded()[0]]
    loader["inputs"]["file"] = "gone.safetensors"
    outputs = client.run(other, extra_pnginfo={"workflow": workflow})
    assert client.picture(outputs, node) == picture
    (entry,) = outputs[changed[0][0]]["membrane"][0]["entries"]
    assert entry["notes"] == ["the file of 'gone' is missing: solved again from its recipe"]


def test_cancelling_while_erasing_leaves_the_server_usable(client, base):
    """Thousands of phrases take seconds to encode; the interruption comes through between two batches."""
    graph, model, clip, vae = base
    concepts = "\n".join(f"circle {i} red -> square" for i in range(3000))
    *changed, _ = erased(graph, model, clip, concepts)
    drawn(graph, *changed, vae, "a red circle", seed=16)
    prompt = client.queue(graph)
    while client.server.get("/queue")["queue_running"] == []:
        pass
    client.post("/interrupt", {})
    entry = client.wait(prompt)
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in kinds and not entry["status"]["completed"]
    after = Graph()
    model, clip, vae = demo(after)
    node = drawn(after, model, clip, vae, "a star", seed=16)
    assert client.picture(client.run(after), node)
