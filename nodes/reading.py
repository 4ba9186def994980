"""Reading files of any published format in a graph; whole weights are compared with a base once, then kept small."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..erasure_core.erasure import Erasure
from ..erasure_core.errors import BadInput
from ..erasure_core.formats import load_as
from ..erasure_core.formats.absolute import Reading, needs_base
from ..erasure_core.formats.detect import kind_of
from ..erasure_core.formats.digests import digest_of
from ..erasure_core.formats.folder import open_header
from ..erasure_core.formats.imported import FOLDER, Imported, import_once, is_whole
from ..erasure_core.keys import family_of
from . import host

_STEPS = 1000  # of the progress bar


@dataclass(frozen=True)
class Base:
    """MODEL and CLIP that a file is meant for, None where not connected, and the node that shows progress."""

    model: Any = None
    clip: Any = None
    node_id: str | None = None

    def opened(self) -> Any:
        """What the core reads: a model with its text encoder, or weights alone; None without a MODEL."""
        from .model import HostModel
        from .weights import HostWeights

        if self.model is None:
            if self.clip is not None:
                raise BadInput("'base_clip' goes with 'base': connect the MODEL of the same checkpoint to 'base'.")
            return None
        if self.clip is not None:
            return HostModel(self.model, self.clip, self.node_id)
        return HostWeights(family_of(host.shapes(self.model)), self.model)


def memory() -> Path:
    """Where hashes of large files are remembered."""
    return host.folder_for(host.FOLDERS[0]) / FOLDER / "digests.json"


def read(path: Path, base: Base, concept: str) -> tuple[Erasure, tuple[str, ...]]:
    """The erasure in a file, and what is to be told about it. Raises what ``formats.load`` raises."""
    header = open_header(path)
    given = base.opened()
    if not is_whole(header):
        erasure = load_as(header, None if given is None else _weights(given).shapes(), concept, Reading())
        return erasure, tuple(_told(erasure))
    if given is None and kind_of(header).reader == "weights":
        raise BadInput(needs_base(header))
    done = import_once(
        header,
        given,
        host.folder_for(host.FOLDERS[0]) / FOLDER,
        digest_of(path, memory(), host.stop_if_asked),
        "no base" if given is None else _weights(given).fingerprint(),
        concept,
        _progress(base.node_id),
    )
    return done.erasure, (*_kept(done), *_told(done.erasure))


def _weights(given: Any) -> Any:
    return given.weights() if hasattr(given, "encode") else given


def _progress(node_id: str | None) -> Any:
    advance = host.progress(_STEPS, node_id)

    def tell(done: int, total: int) -> None:
        host.stop_if_asked()
        advance(done * _STEPS // max(total, 1))

    return tell


def _kept(done: Imported) -> list[str]:
    """How far the small form is from the file, and where it is."""
    measured = done.erasure.diagnostics.get("imported", {})
    parts = [
        f"{what} {measured[key]:.2%} of the change"
        for key, what in (("map_residual", "the map misses"), ("delta_residual", "the low-rank form leaves out"))
        if isinstance(measured.get(key), float) and (key != "map_residual" or done.erasure.maps)
    ]
    if done.path is None:
        parts.append(f"it could not be kept for the next time: {done.trouble}")
    else:
        parts.append(f"{'read from' if done.again else 'kept as'} {FOLDER}/{done.path.name}")
    return ["compared with the base: " + "; ".join(parts)]


def _told(erasure: Erasure) -> list[str]:
    """One line for each thing that was not as expected."""
    told = ("concept", "unmatched", "skipped", "family")
    lines = [str(erasure.diagnostics[key]) for key in told if key in erasure.diagnostics]
    doubt = erasure.diagnostics.get("imported", {}).get("doubt")
    return [*lines, *([doubt] if doubt else [])]
