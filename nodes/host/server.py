"""The host's page, its progress bars and its cancel button."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any


def send(event: str, data: Mapping[str, Any]) -> None:
    """Tell the page; nothing happens where the host runs without its server."""
    server = sys.modules.get("server")
    instance = getattr(getattr(server, "PromptServer", None), "instance", None)
    if instance is not None:
        instance.send_sync(event, dict(data))


def progress(total: int, node_id: str | None) -> Callable[[int], None]:
    """A bar on the node; call it with how much is done."""
    import comfy.utils

    bar = comfy.utils.ProgressBar(total, node_id=node_id)
    return lambda done: bar.update_absolute(done, total)


def stop_if_asked() -> None:
    """Raises the host's own interruption if the user pressed cancel."""
    import comfy.model_management

    comfy.model_management.throw_exception_if_processing_interrupted()
