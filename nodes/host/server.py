"""The host's page, its progress bars and its cancel button."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

_PREVIEW = 512  # pixels of the longer side


def send(event: str, data: Mapping[str, Any]) -> None:
    """Tell the page; nothing happens where the host runs without its server."""
    server = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is not None:
        instance.send_sync(event, dict(data))


def progress(total: int, node_id: str | None) -> Callable[..., None]:
    """A bar on the node; call it with how much is done, and with a picture (of PIL) to be shown there, if any."""
    import comfy.utils

    bar = comfy.utils.ProgressBar(total, node_id=node_id)

    def update(done: int, picture: Any = None) -> None:
        bar.update_absolute(done, total, None if picture is None else ("JPEG", picture, _PREVIEW))

    return update


def say(text: str, node_id: str | None) -> None:
    """A line of text on the node while it runs; nothing happens where the host runs without its server."""
    server = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if node_id is not None and hasattr(instance, "send_progress_text"):
        instance.send_progress_text(text, node_id)


def stop_if_asked() -> None:
    """Raises the host's own interruption if the user pressed cancel."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()
