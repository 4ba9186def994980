"""Negatives inside cross-attention: they work at guidance 1, on distilled models, and cost no further evaluation."""

from .layers import Call, attached, cross_attention, repeats_of
from .terms import (
    METHODS,
    AttentionTerm,
    attention_negative,
    explain,
    make_term,
    opening,
    selection_of,
    settings_of,
    text_rows,
)

__all__ = [
    "METHODS",
    "AttentionTerm",
    "Call",
    "attached",
    "attention_negative",
    "cross_attention",
    "explain",
    "make_term",
    "opening",
    "repeats_of",
    "selection_of",
    "settings_of",
    "text_rows",
]
