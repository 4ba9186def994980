"""A hundred prompts with changing membranes, many of them cancelled: nothing is left behind, nothing piles up."""

import json
import logging
import random
import statistics
import time
from pathlib import Path

import pytest
from graphs import Client, Graph, applied, demo, drawn, erased

PROMPTS, WARM_UP, CANCELLED = 100, 12, 0.6
log = logging.getLogger(__name__)
CONCEPTS = ("circle -> square", "star -> heart\nmoon -> ring", "heart", "style: striped\n+ a red square")
TEXTS = ("a red circle", "a blue star on a gray background", "a striped heart", "two moons", "a green square")


@pytest.fixture(scope="module")
def client(comfy_server):
    return Client(comfy_server, "endurance")


def resident(server) -> int:
    """Bytes of memory that the server holds."""
    pages = Path(f"/proc/{server.process.pid}/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * 4096


def state(client, salt):
    """What hangs on the base model and on a changed one, from inside the server."""
    graph = Graph()
    model, clip, _ = demo(graph)
    changed, *_ = erased(graph, model, clip)
    probes = [graph.add("TestProbe", model=m, salt=salt)()[0] for m in (model, changed)]
    outputs = client.run(graph)
    found = [json.loads(outputs[probe]["text"][0]) for probe in probes]
    return [{key: value for key, value in one.items() if key != "memory"} for one in found]


def reference(client):
    """Pictures of the base model and of a changed one, freshly drawn."""
    client.post("/free", {"unload_models": True, "free_memory": True})
    time.sleep(1.0)  # the server frees between two prompts
    graph = Graph()
    model, clip, vae = demo(graph)
    *changed, _ = erased(graph, model, clip)
    nodes = [drawn(graph, *pair, vae, "a red circle", seed=99) for pair in ((model, clip), changed)]
    outputs = client.run(graph)
    return [client.picture(outputs, node) for node in nodes]


def random_graph(chance, seed):
    """One of many ways to use the nodes."""
    graph = Graph()
    model, clip, vae = demo(graph)
    changed_model, changed_clip, membranes = erased(
        graph, model, clip, chance.choice(CONCEPTS), chance.choice([0.0, 0.5, 1.0])
    )
    way = chance.choice(["erase", "apply", "weights", "twice", "plain"])
    if way == "apply":
        changed_model, changed_clip = applied(graph, model, clip, membranes, chance.choice(["cond", "all"]))
    elif way == "weights":
        changed_model, changed_clip = applied(graph, model, clip, membranes, act_on="weights")
    elif way == "twice":
        changed_model, changed_clip = applied(graph, changed_model, changed_clip, membranes)
    elif way == "plain":
        changed_model, changed_clip = model, clip
    drawn(graph, changed_model, changed_clip, vae, chance.choice(TEXTS), seed=seed, batch=chance.choice([1, 2]))
    return graph


def test_a_hundred_prompts_leave_nothing_behind(client, comfy_server):
    chance = random.Random(20261125)
    for seed in range(WARM_UP):
        client.run(random_graph(chance, 1000 + seed))
    before, pictures = state(client, 1), reference(client)
    for seed in range(WARM_UP):  # freeing moved memory about; the same again, so that both ends are alike
        client.run(random_graph(chance, 2000 + seed))
    used, ends = [], []
    for seed in range(PROMPTS):
        prompt = client.queue(random_graph(chance, 3000 + seed))
        if chance.random() < CANCELLED:
            time.sleep(chance.uniform(0.0, 0.4))
            client.post("/interrupt", {})
        ends.append(client.wait(prompt)["status"]["messages"][-1][0])
        used.append(resident(comfy_server))
    counts = {end: ends.count(end) for end in sorted(set(ends))}
    first, last = statistics.median(used[:10]), statistics.median(used[-10:])
    log.info("ended %s; memory %.1f MB at first, %.1f MB at last", counts, first / 1e6, last / 1e6)
    assert set(ends) <= {"execution_success", "execution_interrupted"}
    assert counts.get("execution_interrupted", 0) >= 10
    assert last <= 1.03 * first
    assert state(client, 2) == before
    assert before[0]["hooks"] == before[0]["wrappers"] == before[0]["patches"] == 0
    assert before[1]["wrappers"] == 2
    assert reference(client) == pictures
    assert pictures[0] != pictures[1]
