"""Small graphs in the form that /prompt takes, and a client that queues them."""

import io
import json
import time
import urllib.error
import urllib.request
from contextlib import suppress

from comfy import Server
from PIL import Image


class Graph(dict):
    """Nodes by id; ``add`` returns a function that names an output of the new node."""

    def add(self, kind, /, **inputs):
        name = str(len(self) + 1)
        self[name] = {"class_type": kind, "inputs": inputs}
        return lambda output=0: [name, output]


def demo(graph):
    """The bundled model: (model, clip, vae)."""
    loader = graph.add("MembraneDemoModel")
    return loader(0), loader(1), loader(2)


def erased(graph, model, clip, concepts="circle -> square", strength=1.0, options=""):
    """Erase: (model, clip, membranes)."""
    wanted = graph.add("MembraneConcepts", text=concepts, kind="object", preserve="")
    node = graph.add(
        "MembraneErase", model=model, clip=clip, concepts=wanted(), method="uce", strength=strength, options=options
    )
    return node(0), node(1), node(2)


def applied(graph, model, clip, membranes, rows="cond", act_on="auto"):
    """Apply Membranes: (model, clip)."""
    node = graph.add("MembraneApply", model=model, clip=clip, membranes=membranes, rows=rows, act_on=act_on)
    return node(0), node(1)


def drawn(graph, model, clip, vae, text, seed=1, steps=6, batch=1):
    """Sample, decode and save; returns the id of the node that saves."""
    positive, negative = (graph.add("CLIPTextEncode", text=t, clip=clip) for t in (text, ""))
    latent = graph.add("EmptyLatentImage", width=64, height=64, batch_size=batch)
    sampled = graph.add(
        "KSampler",
        model=model,
        positive=positive(),
        negative=negative(),
        latent_image=latent(),
        seed=seed,
        steps=steps,
        cfg=5.0,
        sampler_name="euler",
        scheduler="normal",
        denoise=1.0,
    )
    decoded = graph.add("VAEDecode", samples=sampled(), vae=vae)
    return graph.add("SaveImage", images=decoded(), filename_prefix="test")()[0]


class Client:
    """Queues graphs on a server and waits for them."""

    def __init__(self, server: Server, name: str = "") -> None:
        self.server, self.name, self.last = server, name, ""

    def post(self, path, data):
        body = json.dumps(data).encode()
        request = urllib.request.Request(self.server.url + path, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def queue(self, graph, **extra):
        """The id of the queued prompt; a refusal is an AssertionError with what the server says."""
        try:
            queued = self.post("/prompt", {"prompt": graph, "client_id": self.name, "extra_data": extra})
        except urllib.error.HTTPError as error:
            raise AssertionError(error.read().decode()) from None
        self.last = queued["prompt_id"]
        return self.last

    def refused(self, graph):
        """What the server says of a graph that it does not take, {} if it takes it."""
        with suppress(AssertionError):
            self.queue(graph)
            return {}
        try:
            self.post("/prompt", {"prompt": graph})
        except urllib.error.HTTPError as error:
            return json.loads(error.read())

    def wait(self, prompt_id, timeout=120):
        """The history entry of a finished prompt."""
        for _ in range(timeout * 20):
            found = self.server.get(f"/history/{prompt_id}")
            if found:
                return found[prompt_id]
            time.sleep(0.05)
        raise AssertionError(f"not finished within {timeout} s:\n{self.server.log[-3000:]}")

    def run(self, graph, **extra):
        """The outputs of a prompt that must succeed."""
        entry = self.wait(self.queue(graph, **extra))
        assert entry["status"]["status_str"] == "success", entry["status"]["messages"][-1]
        return entry["outputs"]

    def failed(self, graph, **extra):
        """The message of a prompt that must fail."""
        entry = self.wait(self.queue(graph, **extra))
        (message,) = [m for kind, m in entry["status"]["messages"] if kind == "execution_error"]
        return message["exception_message"].strip()

    def picture(self, outputs, node):
        """Pixels of the first picture that ``node`` saved; its file also holds the graph."""
        image = outputs[node]["images"][0]
        query = f"filename={image['filename']}&subfolder={image['subfolder']}&type={image['type']}"
        with urllib.request.urlopen(f"{self.server.url}/view?{query}", timeout=60) as answer:
            return Image.open(io.BytesIO(answer.read())).tobytes()
