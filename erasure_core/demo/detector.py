"""An independent judge of shapes-world pictures: a small CNN that reads shape, colour, style and background.

It was trained on drawings only, never on generated pictures, and may answer "garbled" for each attribute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ..errors import BadInput
from .world import ATTRIBUTES, GARBLED, SIZE

WEIGHTS = Path(__file__).parent / "weights" / "detector" / "detector.safetensors"
LABELS: Mapping[str, tuple[str, ...]] = {name: (*labels, GARBLED) for name, labels in ATTRIBUTES.items()}
"""Attribute -> its classes, in the order of the network's outputs."""

WIDTHS = (32, 64, 96, 128, 128)
STRIDES = (2, 2, 1, 2, 1)


@dataclass(frozen=True)
class Reading:
    """What the detector sees in one picture; each label may be "garbled". Also reads like a mapping.

    ``confidence``: attribute -> probability (0..1) of the label given.
    """

    shape: str
    colour: str
    style: str
    background: str
    confidence: Mapping[str, float] = field(default_factory=dict)

    def keys(self) -> Iterator[str]:
        """The attributes."""
        return iter(LABELS)

    def __getitem__(self, attribute: str) -> str:
        if attribute not in LABELS:
            raise KeyError(attribute)
        label: str = getattr(self, attribute)
        return label


class Detector(nn.Module):
    """Five convolutions, pooled by mean and maximum, and one linear layer per attribute (0.4 M parameters)."""

    attributes: tuple[str, ...] = tuple(LABELS)

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after, stride in zip((3, *WIDTHS), WIDTHS, STRIDES, strict=False):
            layers += [nn.Conv2d(before, after, 3, stride, 1, bias=False), nn.BatchNorm2d(after), nn.ReLU(True)]
        self.features = nn.Sequential(*layers)
        self.heads = nn.ModuleDict({name: nn.Linear(2 * WIDTHS[-1], len(labels)) for name, labels in LABELS.items()})

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """Logits per attribute [B, classes] of pictures [B, 3, 64, 64] in 0..1."""
        grid = self.features(images * 2 - 1)
        pooled = torch.cat([grid.mean((2, 3)), grid.amax((2, 3))], 1)
        return {name: head(pooled) for name, head in self.heads.items()}

    @property
    def fingerprint(self) -> str:
        """Short hash of the weights: results of different detectors must not be mixed."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:16]

    @torch.no_grad()
    def read(self, images: Tensor, batch: int = 256) -> list[Reading]:
        """One reading per picture of a batch [B, 3, 64, 64] in 0..1. Raises BadInput for any other shape."""
        if images.dim() != 4 or tuple(images.shape[1:]) != (3, SIZE, SIZE):
            raise BadInput(f"The detector reads pictures [B, 3, {SIZE}, {SIZE}], not {tuple(images.shape)}.")
        device = next(self.parameters()).device
        readings: list[Reading] = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch].to(device=device, dtype=torch.float32).clamp(0, 1)
            best = {name: logits.softmax(1).max(1) for name, logits in self(part).items()}
            for i in range(len(part)):
                labels = {name: LABELS[name][int(top.indices[i])] for name, top in best.items()}
                sure = {name: float(top.values[i]) for name, top in best.items()}
                readings.append(Reading(**labels, confidence=sure))
        return readings


def load_detector(path: Path = WEIGHTS) -> Detector:
    """The bundled detector, ready to read, on the processor in float32."""
    detector = Detector()
    stored = load_file(path)
    detector.load_state_dict({name: value.to(stored[name].dtype) for name, value in stored.items()})
    return detector.float().eval().requires_grad_(False)
