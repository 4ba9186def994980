"""Names and families: canonical (diffusers) names <-> LDM / ComfyUI <-> kohya <-> PEFT.

Canonical names are diffusers module paths with a root: ``unet.``, ``transformer.`` (Flux),
``text_encoder.text_model.``, ``text_encoder_2.text_model.``.
"""

from .families import FAMILIES, FLUX, SD1, SD2, SDXL, SPACES, Family, family_of, refuse_other_networks
from .flux import FluxLayout
from .layout import UNetLayout
from .stems import kohya_stem, module_table, name_of_stem, plain_module, stacked_table, stem_table
from .text import Slot, TextLayout
from .unet import layout_of, ldm_names

__all__ = [
    "FAMILIES",
    "FLUX",
    "SD1",
    "SD2",
    "SDXL",
    "SPACES",
    "Family",
    "FluxLayout",
    "Slot",
    "TextLayout",
    "UNetLayout",
    "family_of",
    "kohya_stem",
    "layout_of",
    "ldm_names",
    "module_table",
    "name_of_stem",
    "plain_module",
    "refuse_other_networks",
    "stacked_table",
    "stem_table",
]
