"""Guidance at sampling time: what acts on attention or on the text for the length of one sampling."""
