"""Names under which we leave something with the host."""

from __future__ import annotations

KEY = "membrane"  # of our wrappers, of the run in the options, of our marks
GUIDANCE = f"{KEY}.guidance"  # of the wrappers that add texts to each step
STAMP = "membrane_tokens"  # under which a conditioning carries the words it was made from
ENCODERS = {"l": "clip_l", "g": "clip_g", "h": "clip_h"}  # the host's names of text encoders -> ours
