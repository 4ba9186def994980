"""Trained erasures: one loop, declarative objectives, adapters of a LoRA's size."""
