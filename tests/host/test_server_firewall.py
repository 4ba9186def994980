"""The Concept Firewall through /prompt in a real server: pictures, live events though it is cached, changed files."""

import pytest
from events import listening
from graphs import Client, Graph, demo, drawn


@pytest.fixture(scope="module")
def client(comfy_server):
    return Client(comfy_server, "firewall")


@pytest.fixture
def policies(comfy_server):
    folder = comfy_server.base / "models" / "membrane_policies"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def guarded(graph, model, clip, policy="(none)", concepts="circle -> square", vectors=True):
    """Concept Firewall: (model, clip)."""
    more = {"concepts": graph.add("MembraneConcepts", text=concepts, kind="object", preserve="")()} if concepts else {}
    node = graph.add(
        "MembraneFirewall", model=model, clip=clip, policy=policy, sensitivity=0.5, vectors=vectors, **more
    )
    return node(0), node(1)


def words(graph, before, after):
    """Write another prompt."""
    next(node for node in graph.values() if node["inputs"].get("text") == before)["inputs"]["text"] = after


def test_only_the_picture_that_names_a_concept_changes(client):
    graph = Graph()
    model, clip, vae = demo(graph)
    wall = guarded(graph, model, clip)
    nodes = [
        drawn(graph, *form, vae, prompt, seed=21)
        for prompt in ("a red circle", "a red star")
        for form in ((model, clip), wall)
    ]
    outputs = client.run(graph)
    circle, without_circle, star, same_star = (client.picture(outputs, node) for node in nodes)
    assert circle != without_circle and star == same_star
    (panel,) = outputs[wall[0][0]]["membrane"]
    assert panel["entries"][0]["lines"][:3] == [
        ["policy", "connected concepts"],
        ["rules", "1"],
        ["keeps out", "circle"],
    ]


def test_events_arrive_when_only_the_text_has_changed(client, comfy_server, tmp_path):
    """The firewall is cached in the second run, yet its node hears what the new prompt touched."""
    graph = Graph()
    model, clip, vae = demo(graph)
    wall = guarded(graph, model, clip, concepts="circle -> square\nheart -> star")
    drawn(graph, *wall, vae, "two circles", seed=22)
    with listening(client, tmp_path) as heard:
        client.run(graph)
        first = heard.all("membrane.gains")
        words(graph, "two circles", "a moon")
        client.run(graph)
        second = heard.all("membrane.gains")[len(first) :]
        words(graph, "a moon", "a heart")
        client.run(graph)
        third = heard.all("membrane.gains")[len(first) + len(second) :]
        cached = heard.all("execution_cached")[-1]["nodes"]
    assert wall[0][0] in cached
    expected = (("two circles", ["circle"], [[1.0]]), ("a moon", [], [[]]), ("a heart", ["heart"], [[1.0]]))
    for events, (text, names, gains) in zip((first, second, third), expected, strict=True):
        (event,) = events
        assert (event["node_id"], event["text"], event["mode"]) == (wall[0][0], text, "exact")
        assert (event["membranes"], event["gains"], event["negative"]) == (names, gains, False)
        assert event["panel"]["entries"][0]["name"] == "Concept Firewall"  # for a page that was reloaded


def test_a_changed_policy_file_is_read_again_and_an_unchanged_one_is_cached(client, comfy_server, policies, tmp_path):
    policy = policies / "served.txt"
    policy.write_text("heart -> star\n", encoding="utf-8")
    graph = Graph()
    model, clip, vae = demo(graph)
    wall = guarded(graph, model, clip, "served.txt", concepts="")
    plain, node = (drawn(graph, *form, vae, "a red circle", seed=23) for form in ((model, clip), wall))
    with listening(client, tmp_path) as heard:
        outputs = client.run(graph)
        assert client.picture(outputs, plain) == client.picture(outputs, node)
        index = policies / "served.txt.index.safetensors"
        made = index.stat().st_mtime_ns
        client.run(graph)
        assert {wall[0][0], node} <= set(heard.all("execution_cached")[-1]["nodes"])
        policy.write_text("circle -> square\n", encoding="utf-8")
        outputs = client.run(graph)
        assert wall[0][0] not in heard.all("execution_cached")[-1]["nodes"]
    assert client.picture(outputs, plain) != client.picture(outputs, node)
    assert index.stat().st_mtime_ns != made


def test_a_policy_that_is_gone_stops_the_workflow(client, policies):
    """Never a picture without the policy: neither when it is queued nor, connected or not, when it runs."""
    graph = Graph()
    model, clip, vae = demo(graph)
    drawn(graph, *guarded(graph, model, clip, "nowhere.json"), vae, "a red circle")
    errors = client.refused(graph)["node_errors"]
    assert any("nowhere.json" in error["details"] for node in errors.values() for error in node["errors"])


def test_no_policy_at_all_is_one_sentence(client):
    graph = Graph()
    model, clip, vae = demo(graph)
    drawn(graph, *guarded(graph, model, clip, concepts=""), vae, "a red circle")
    assert client.failed(graph).startswith("There is no policy: no file is chosen and no concepts are connected.")
