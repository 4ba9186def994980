"""Measuring an erasure: prompt groups, detectors, rates with intervals, scores, records and contact sheets."""

from .bench import bench
from .concept_prompts import concept_groups
from .demo_prompts import demo_groups, quality_groups
from .detectors import GARBLED, Detector, Undecided, Verdict
from .distance import distances
from .groups import Case, PromptGroup, make_group, reroll
from .intervals import Estimate, Rate, cluster_bootstrap, corrected_rate, paired_difference, wilson
from .misspell import misspell, misspellings
from .result import BenchResult
from .result_sheet import result_sheet
from .scores import harmonic, harmonic_celebrities, harmonic_objects
from .sheet import Section, Shown, Tile, contact_sheet

__all__ = [
    "GARBLED",
    "BenchResult",
    "Case",
    "Detector",
    "Estimate",
    "PromptGroup",
    "Rate",
    "Section",
    "Shown",
    "Tile",
    "Undecided",
    "Verdict",
    "bench",
    "cluster_bootstrap",
    "concept_groups",
    "contact_sheet",
    "corrected_rate",
    "demo_groups",
    "distances",
    "harmonic",
    "harmonic_celebrities",
    "harmonic_objects",
    "make_group",
    "misspell",
    "misspellings",
    "paired_difference",
    "quality_groups",
    "reroll",
    "result_sheet",
    "wilson",
]
