"""Everything Membrane asks of ComfyUI; the only folder that names the host's modules, classes, functions and options.

Public and long-lived names only, checked against every supported version by ``tests/host/test_names_host.py``. Modules
of the host are imported where they are used, so that these files can be read without one.
"""

from __future__ import annotations

from .bundled import build_model
from .files import (
    ENDINGS,
    FOLDERS,
    POLICIES,
    file_names,
    file_path,
    folder_for,
    policy_names,
    policy_path,
    register_folders,
    save_place,
)
from .marks import ENCODERS, KEY, STAMP
from .models import (
    add_full,
    add_low_rank,
    clone,
    is_ours,
    key_patches,
    network_of,
    place,
    settings_of,
    shapes,
    text_patcher,
    weight_with,
)
from .sampling import (
    arguments_of,
    chunks_of,
    clock_of,
    conditionings,
    denoiser_of,
    feeds_regions,
    guider_of,
    noise_between,
    noise_now,
    places,
    pooled_vectors,
    put_wrappers,
    running,
    timed,
    times,
    with_last_patch,
    wrapper_of,
)
from .server import progress, send, stop_if_asked
from .text import clip_skip_of, encode, tokenize, with_encoding, words_in

__all__ = [
    "ENCODERS",
    "ENDINGS",
    "FOLDERS",
    "KEY",
    "POLICIES",
    "STAMP",
    "add_full",
    "add_low_rank",
    "arguments_of",
    "build_model",
    "chunks_of",
    "clip_skip_of",
    "clock_of",
    "clone",
    "conditionings",
    "denoiser_of",
    "encode",
    "feeds_regions",
    "file_names",
    "file_path",
    "folder_for",
    "guider_of",
    "is_ours",
    "key_patches",
    "network_of",
    "noise_between",
    "noise_now",
    "place",
    "places",
    "policy_names",
    "policy_path",
    "pooled_vectors",
    "progress",
    "put_wrappers",
    "register_folders",
    "running",
    "save_place",
    "send",
    "settings_of",
    "shapes",
    "stop_if_asked",
    "text_patcher",
    "timed",
    "times",
    "tokenize",
    "weight_with",
    "with_encoding",
    "with_last_patch",
    "words_in",
    "wrapper_of",
]
