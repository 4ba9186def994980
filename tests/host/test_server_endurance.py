"""A hundred prompts with changing membranes, many of them cancelled: nothing is left behind, nothing piles up."""

import json
import logging
import random
import statistics
import time
from pathlib import Path

import pytest
import torch
from graphs import Client, Graph, applied, demo, drawn, erased

from erasure_core import Erasure, WeightDelta, models, save

PROMPTS, WARM_UP, CANCELLED = 100, 12, 0.6
log = logging.getLogger(__name__)
ERASERS = ("circle", "star")  # of which trained membranes lie in the server's folder
CONCEPTS = ("circle -> square", "star -> heart\nmoon -> ring", "heart", "style: striped\n+ a red square")
TEXTS = ("a red circle", "a blue star on a gray background", "a striped heart", "two moons", "a green square")


@pytest.fixture(scope="module")
def client(comfy_server):
    (comfy_server.base / "models" / "membranes").mkdir(parents=True, exist_ok=True)
    shapes = models.load_demo().weights().shapes()
    for number, phrase in enumerate(ERASERS):
        save(trained(phrase, shapes, number), comfy_server.base / "models" / "membranes" / f"no-{phrase}.safetensors")
    return Client(comfy_server, "endurance")


def trained(phrase, shapes, seed):
    """A random change of every attention of the bundled model, as if it had been trained."""
    random = torch.Generator().manual_seed(seed)
    deltas = {}
    for name, shape in shapes.items():
        if ".to_" not in name or not name.endswith(".weight"):
            continue
        down, up = torch.randn(2, shape[1], generator=random), torch.randn(shape[0], 2, generator=random)
        deltas[name] = WeightDelta(name, down=down / shape[1] ** 0.5, up=up, scale=0.2)
    return Erasure(weight_deltas=deltas, gate={"phrases": [phrase]}, base={"family": "sd1"})


def loaded(graph, membranes, gate, start):
    """Both files behind the list."""
    for phrase in ERASERS:
        more = {"gate": gate, "strength": 1.0, "start": start, "end": 1.0, "membranes": membranes}
        membranes = graph.add("MembraneLoad", file=f"no-{phrase}.safetensors", **more)()
    return membranes


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
    chained = applied(graph, model, clip, loaded(graph, erased(graph, model, clip)[2], "words", 0.0))
    pairs = ((model, clip), changed, chained)
    nodes = [drawn(graph, *pair, vae, "a red circle", seed=99) for pair in pairs]
    outputs = client.run(graph)
    return [client.picture(outputs, node) for node in nodes]


def random_graph(chance, seed):
    """One of many ways to use the nodes."""
    graph = Graph()
    model, clip, vae = demo(graph)
    changed_model, changed_clip, membranes = erased(
        graph, model, clip, chance.choice(CONCEPTS), chance.choice([0.0, 0.5, 1.0])
    )
    way = chance.choice(["erase", "apply", "weights", "twice", "chain", "chain", "plain"])
    if way == "apply":
        changed_model, changed_clip = applied(graph, model, clip, membranes, chance.choice(["cond", "all"]))
    elif way == "weights":
        changed_model, changed_clip = applied(graph, model, clip, membranes, act_on="weights")
    elif way == "twice":
        changed_model, changed_clip = applied(graph, changed_model, changed_clip, membranes)
    elif way == "chain":
        some = loaded(graph, membranes, chance.choice(["always", "words"]), chance.choice([0.0, 0.4]))
        changed_model, changed_clip = applied(graph, model, clip, some, chance.choice(["cond", "all"]))
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
    assert len(set(pictures)) == 3
