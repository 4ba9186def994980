"""Demo Model: the bundled model of 13 MB that draws coloured shapes, as an ordinary MODEL, CLIP and VAE."""

from __future__ import annotations

from typing import Any


class Multiple(float):
    """A width multiplier whose products are whole: the host counts channels as multiples of the first level's."""

    def __mul__(self, other: Any) -> int:
        return round(float(self) * other)

    __rmul__ = __mul__


class DemoModel:
    """Loader of the bundled model; downloads nothing."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "The model that comes with Membrane: a Stable Diffusion of 13 MB that draws coloured shapes on 64 x 64 pixels, "
        "for trying out erasures in a second. It knows circle, square, triangle, star, heart, cross, moon and ring."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")
    OUTPUT_TOOLTIPS = (
        "The denoiser; use it like any checkpoint's. Draw at 64 x 64.",
        "The text encoder. It knows shapes, colours, styles and a few dozen other words.",
        "The autoencoder.",
    )
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """No inputs."""
        return {"required": {}}

    def run(self) -> tuple[Any, Any, Any]:
        """Build the three parts from the bundled files."""
        from . import host
        from .demo_weights import parts

        return host.build_model(**parts())
