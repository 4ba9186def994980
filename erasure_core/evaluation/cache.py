"""Pictures kept on disk by what made them, so that no picture is ever drawn twice.

Layout: ``<who drew it>/<prompt>.<seed>.<key>.png`` where *who* is the model, alone or with a membrane. A 64 x 64
picture takes about 6 KB, one of 512 x 512 about 500 KB, one of 1024 x 1024 about 1.8 MB.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..atomic import write_bytes

BASE = "base"
_LABEL = "membrane.key"


@dataclass(frozen=True)
class Sampler:
    """How pictures are drawn. ``size`` is (height, width) in pixels, ``scheduler`` names the backend's sampler."""

    steps: int
    cfg: float
    negative: str
    size: tuple[int, int]
    scheduler: str

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits; changes with any setting."""
        return content_hash(asdict(self))[:12]


@dataclass(frozen=True)
class Shot:
    """One picture to draw, with everything that decides its pixels.

    ``model`` and ``text`` are fingerprints of the checkpoint and its text encoder, ``membrane`` is the content hash
    of what was applied, or ``"base"``.
    """

    model: str
    text: str
    membrane: str
    prompt: str
    seed: int
    sampler: Sampler

    @property
    def key(self) -> str:
        """SHA-256 of all fields."""
        return content_hash(asdict(self))

    @property
    def order(self) -> str:
        """What batches are sorted by: the same for both sides of a pair, so that they share batches' rounding."""
        return content_hash([self.prompt, self.seed])


class PictureCache:
    """Pictures under one folder; safe to interrupt at any moment."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, shot: Shot) -> Path:
        """Where the picture is or will be; a person can read prompt and seed from it."""
        who = BASE if shot.membrane == BASE else f"membrane-{shot.membrane[:8]}"
        words = re.sub(r"[^a-z0-9]+", "-", shot.prompt.lower()).strip("-")[:48] or "prompt"
        return self.folder / f"{who}-{shot.model[:8]}" / f"{words}.{shot.seed}.{shot.key[:12]}.png"

    def load(self, shot: Shot) -> Tensor | None:
        """The picture, uint8 [3, H, W]; None if it is missing, damaged, or drawn by something else."""
        try:
            with Image.open(self.path(shot)) as image:
                image.load()
                if image.text.get(_LABEL) != shot.key or image.mode != "RGB":
                    return None
                return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()
        except (OSError, SyntaxError, ValueError, AttributeError):
            return None  # Pillow's ways to say that a file is torn; the picture is drawn again

    def store(self, shot: Shot, picture: Tensor) -> None:
        """Keep ``picture``, uint8 [3, H, W]."""
        label = PngImagePlugin.PngInfo()
        label.add_text(_LABEL, shot.key)
        stream = io.BytesIO()
        to_image(picture).save(stream, "PNG", pnginfo=label)
        write_bytes(self.path(shot), stream.getvalue())

    def size(self) -> tuple[int, int]:
        """Number of pictures and their bytes on disk."""
        sizes = [path.stat().st_size for path in self.folder.glob("*/*.png")]
        return len(sizes), sum(sizes)


def to_bytes(pictures: Tensor) -> Tensor:
    """Pictures in 0..1 as uint8, rounded; what is judged and compared is always this, cached or not."""
    return pictures.clamp(0, 1).mul(255).round().to(torch.uint8)


def to_image(picture: Tensor) -> Image.Image:
    """Pillow image of one picture, uint8 [3, H, W]."""
    return Image.fromarray(picture.permute(1, 2, 0).contiguous().numpy())


def content_hash(content: object) -> str:
    """SHA-256 of JSON data, independent of the order of its keys."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
