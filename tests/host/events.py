"""Listens to a server's websocket with the host's own interpreter, which has aiohttp."""

import json
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

from comfy import host_environment, host_python
from graphs import Client

LISTEN = """
import asyncio, json, sys
import aiohttp

async def main(url, client):
    async with aiohttp.ClientSession() as session, session.ws_connect(f"{url}/ws?clientId={client}") as socket:
        print("ready", flush=True)
        async for message in socket:
            if message.type == aiohttp.WSMsgType.TEXT:
                print(message.data, flush=True)

asyncio.run(main(*sys.argv[1:]))
"""


ENDS = ("execution_success", "execution_error", "execution_interrupted")


class Heard:
    """What has arrived so far."""

    def __init__(self, client: Client, log: Path) -> None:
        self.client, self.log, self.before = client, log, client.last

    def messages(self):
        lines = self.log.read_text(encoding="utf-8").splitlines()[1:]
        return [json.loads(line) for line in lines if line.endswith("}")]

    def all(self, kind):
        """Data of every message of a kind, in order; the history knows of a run's end before the socket does."""
        for _ in range(600):
            found = self.messages()
            ended = [m["data"]["prompt_id"] for m in found if m["type"] in ENDS]
            if self.client.last in (self.before, *ended):
                return [message["data"] for message in found if message["type"] == kind]
            time.sleep(0.05)
        raise AssertionError(f"the end of {self.client.last} was not heard")


@contextmanager
def listening(client: Client, folder: Path):
    """While the block runs, messages for ``client`` are written down."""
    log = folder / "events.log"
    with log.open("wb") as out:
        command = [host_python(), "-c", LISTEN, client.server.url, client.name]
        process = subprocess.Popen(command, stdout=out, stderr=sys.stderr, env=host_environment())
    try:
        while not log.read_text(encoding="utf-8").startswith("ready"):
            assert process.poll() is None, "the listener ended"
        yield Heard(client, log)
    finally:
        process.terminate()
        process.wait()
