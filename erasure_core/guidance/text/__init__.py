"""Text-space terms: they rewrite the prompt's vectors before the denoiser sees them, at no cost per step."""

from .steered import Proposal, Report, Steered
from .terms import METHODS, TextTerm, explain, settings_of, text_steering

__all__ = ["METHODS", "Proposal", "Report", "Steered", "TextTerm", "explain", "settings_of", "text_steering"]
