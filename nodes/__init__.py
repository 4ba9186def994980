"""The nodes as ComfyUI sees them. Nothing heavy is imported until a node runs."""

from __future__ import annotations

import importlib.util
import logging

from .attention_negative import AttentionNegative
from .concepts import Concepts
from .demo import DemoModel
from .erase import Erase
from .firewall import ConceptFirewall
from .membranes import ApplyMembranes, Inspect, LoadMembrane, SaveMembrane
from .negative_guidance import GuidancePlot, NegativeGuidance
from .text_steer import TextSteer
from .train import Train

NODE_CLASS_MAPPINGS = {
    "MembraneDemoModel": DemoModel,
    "MembraneConcepts": Concepts,
    "MembraneErase": Erase,
    "MembraneLoad": LoadMembrane,
    "MembraneSave": SaveMembrane,
    "MembraneApply": ApplyMembranes,
    "MembraneInspect": Inspect,
    "MembraneFirewall": ConceptFirewall,
    "MembraneAttentionNegative": AttentionNegative,
    "MembraneTextSteer": TextSteer,
    "MembraneNegativeGuidance": NegativeGuidance,
    "MembraneGuidancePlot": GuidancePlot,
    "MembraneTrain": Train,
}
NODE_DISPLAY_NAME_MAPPINGS = {
    "MembraneDemoModel": "Demo Model (Membrane)",
    "MembraneConcepts": "Concepts (Membrane)",
    "MembraneErase": "Erase (Membrane)",
    "MembraneLoad": "Load Membrane",
    "MembraneSave": "Save Membrane",
    "MembraneApply": "Apply Membranes",
    "MembraneInspect": "Inspect Membranes",
    "MembraneFirewall": "Concept Firewall",
    "MembraneAttentionNegative": "Attention Negative",
    "MembraneTextSteer": "Text Steer",
    "MembraneNegativeGuidance": "Negative Guidance",
    "MembraneGuidancePlot": "Guidance Plot",
    "MembraneTrain": "Train (Membrane)",
}

if importlib.util.find_spec("folder_paths") is None:  # not in the host: a test or a tool reads the nodes
    logging.getLogger(__name__).debug("ComfyUI is not here, so its folders are not registered")
else:
    from .host import register_folders

    register_folders()
