"""ComfyUI as a library, without a server: scripts that run in a process of its interpreter."""

import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from comfy import host_environment, host_path, host_python

SCRIPTS = Path(__file__).resolve().parent / "scripts"
LIMIT = 300  # seconds that one script may take


class Library:
    """Runs scripts of ``scripts``. The host is imported once, then each script has a fresh copy of that process."""

    def __init__(self) -> None:
        self._process: subprocess.Popen | None = None
        self._base = tempfile.TemporaryDirectory()

    def ask(self, script: str, **values: Any) -> Any:
        """What ``main(**values)`` of a script returns, both as JSON.

        ``base`` among the values is the host's folder for models and results; by default one that is thrown away.
        """
        with tempfile.TemporaryDirectory() as folder:
            answer, words = Path(folder) / "answer.json", Path(folder) / "words.txt"
            request = {"script": script, "answer": str(answer), "words": str(words), "limit": LIMIT}
            done = self._serve({**request, "values": {"base": folder, **values}})
            said = words.read_text(encoding="utf-8", errors="replace") if words.exists() else ""
            assert done and answer.exists(), f"{script} failed:\n{said[-3000:] or self._start_up_words()}"
            return json.loads(answer.read_text(encoding="utf-8"))

    def _serve(self, request: dict[str, Any]) -> bool:
        if self._process is None or self._process.poll() is not None:
            with self._log.open("wb") as log:
                self._process = subprocess.Popen(
                    [host_python(), str(SCRIPTS / "run.py"), self._base.name],
                    cwd=host_path(),
                    env=host_environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    text=True,
                )
        process = self._process
        assert process is not None and process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            return False
        return process.stdout.readline() == "done\n"

    @property
    def _log(self) -> Path:
        return Path(self._base.name) / "start.txt"

    def _start_up_words(self) -> str:
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:]

    def close(self) -> None:
        """End the process and remove its folder."""
        if self._process is not None and self._process.stdin is not None and self._process.stdout is not None:
            self._process.kill()  # it holds nothing worth an orderly end
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
        self._base.cleanup()
