"""Membrane for ComfyUI: makes a text-to-image model stop drawing chosen concepts.

Everything the host wants from this folder is named here; the work is done by ``erasure_core``, which knows no host.
"""

if __package__:  # empty when a test collector imports this file by its path
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

    __all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "WEB_DIRECTORY"]

WEB_DIRECTORY = "./web"
