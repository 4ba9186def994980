"""Listens to a server's websocket with the host's own interpreter, which has aiohttp."""

import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

from comfy import host_environment, host_python

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


class Heard:
    """What has arrived so far."""

    def __init__(self, log: Path) -> None:
        self.log = log

    def all(self, kind):
        """Data of every message of a kind, in order."""
        lines = self.log.read_text(encoding="utf-8").splitlines()[1:]
        found = [json.loads(line) for line in lines if line.endswith("}")]
        return [message["data"] for message in found if message["type"] == kind]


@contextmanager
def listening(server, client: str, folder: Path):
    """While the block runs, messages for ``client`` are written down."""
    log = folder / "events.log"
    with log.open("wb") as out:
        command = [host_python(), "-c", LISTEN, server.url, client]
        process = subprocess.Popen(command, stdout=out, stderr=sys.stderr, env=host_environment())
    try:
        while not log.read_text(encoding="utf-8").startswith("ready"):
            assert process.poll() is None, "the listener ended"
        yield Heard(log)
    finally:
        process.terminate()
        process.wait()
