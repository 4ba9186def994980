"""Files: ``load`` whatever holds an erasure, ``save`` natively or as a LoRA, ``describe`` what a file is."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic import atomic_write
from ..bottleneck import check_bottlenecks
from ..erasure import Erasure
from ..errors import BadInput, WrongFamily
from ..keys import FAMILIES, Family, family_of, refuse_other_networks
from .absolute import Reading, needs_base, read_absolute
from .concept import named
from .describe import erasure_report, file_report, whole_report
from .detect import kind_of
from .files import Header, read_tensors
from .folder import open_header
from .kohya import read_kohya
from .lora import lora_tensors
from .metadata import family_name
from .native import native_tensors, read_native
from .peft import read_peft
from .receler import read_receler
from .serial import write_safetensors
from .wrapper import read_wrapper

FORMS = ("native", "lora")
__all__ = ["FORMS", "describe", "dump", "erasure_report", "load", "save", "with_ending"]


def load(
    path: str | os.PathLike[str],
    base: Any = None,
    *,
    concept: str | None = None,
    rank: int | None = None,
    force: bool = False,
) -> Erasure:
    """The erasure in a file or the folder of a pipeline, recognised by content.

    Native; LoRA with kohya, PEFT or diffusers names (SPM, ACE, Sliders, LECO, MACE, LyCORIS differences); Receler; and
    whole new weights of a U-Net, of part of one, of a checkpoint or of a text encoder (ESD, UCE, RECE, MACE, TRCE,
    SPEED, Ablating Concepts, AdvUnlearn), as ``.safetensors`` or as ``.pt`` that holds nothing but tensors.

    ``base``: the model it is meant for (a Model, or weights by name; shapes do except for whole weights), checked
    against the file; without it third-party files must fit a known family, and whole weights cannot be read: only a
    base tells what they change. ``concept``: what it erases, for gates, in place of what the file says; synonyms after
    ``|``. ``rank``: at most so many terms for what is found in whole weights; ``force``: go on with a base that seems
    to be another one than theirs. Raises UnknownFormat for any other or damaged file, WrongFamily, WrongBase or
    NothingMatched for one that does not fit, BadInput for a missing base. What was partly matched, and how far a map or
    delta is from the file, stands in ``diagnostics``.
    """
    return load_as(open_header(path), base, concept, Reading(rank, force=force))


def load_as(header: Header, base: Any, concept: str | None, reading: Reading) -> Erasure:
    """:func:`load` of a file whose header was read, with all that can be said about how."""
    return named(_load(header, base, reading), concept)


def _family(base: Any) -> Family:
    return family_of(base if isinstance(base, Mapping) else base.weights())


def _load(header: Header, base: Any, reading: Reading) -> Erasure:
    kind = kind_of(header)
    refuse_other_networks(header.shapes)
    if kind.reader == "weights":
        if base is None:
            raise BadInput(needs_base(header))
        return read_absolute(header, base, reading)
    family = None if base is None else _family(base)
    families = (family,) if family is not None else tuple(FAMILIES.values())
    if kind.reader == "wrapper":
        return read_wrapper(header, base, families, reading)
    tensors = read_tensors(header)
    if kind.reader == "native":
        erasure = read_native(header, tensors)
        if family is not None:
            _check(erasure, family, header.name)
        return erasure
    if kind.reader == "receler":
        return read_receler(header, tensors, families)
    return (read_kohya if kind.reader == "kohya" else read_peft)(header, tensors, families, kind)


def _check(erasure: Erasure, family: Family, file: str) -> None:
    made_for = family_name(erasure)
    if made_for != family.name:
        raise WrongFamily(f"{file} was made for {made_for}, this model is {family.name}. Use a model of that family.")
    shapes = family.shapes()
    for name, delta in erasure.weight_deltas.items():
        if shapes.get(name) != delta.shape:
            raise WrongFamily(
                f"{file} was made for another model: it changes {name} of shape {delta.shape}, "
                f"where this model has {shapes.get(name, 'no such weight')}."
            )
    check_bottlenecks(erasure.bottlenecks.values(), shapes)
    emap = erasure.maps.get(family.spaces[0])
    if emap is not None and emap.width != family.context:
        raise WrongFamily(
            f"{file} was made for text vectors of width {emap.width}, this model's have {family.context}. "
            "Use it with the model it was made for."
        )


def save(
    erasure: Erasure,
    path: str | os.PathLike[str],
    form: str = "native",
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    statistics: bool = False,
) -> Path:
    """Write ``erasure`` to ``path`` (``.safetensors`` is added if it is missing); returns the path written.

    The arguments are those of :func:`dump`. Raises CannotWrite, with the old file untouched.
    """
    data = dump(erasure, form, weights, dtype, statistics)
    return atomic_write(with_ending(path), lambda stream: stream.write(data))


def dump(
    erasure: Erasure,
    form: str = "native",
    weights: Mapping[str, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    statistics: bool = False,
) -> bytes:
    """What :func:`save` writes. Equal erasures give equal bytes.

    ``form``: ``native`` keeps everything and fits each model with the same text encoder; ``lora`` is for any host and
    needs the model's ``weights`` by canonical name if the erasure has maps. ``dtype`` of the LoRA: float32 (exact) or
    float16. ``statistics``: native only, with the rows it was solved from, so that it joins exactly without a model.
    """
    if form not in FORMS:
        raise BadInput(f"Unknown form '{form}'. Known: {', '.join(FORMS)}.")
    if form == "native":
        tensors, metadata = native_tensors(erasure, statistics)
    else:
        tensors, metadata = lora_tensors(erasure, weights, dtype)
    if not tensors:
        raise BadInput("This erasure changes nothing, so there is nothing to save.")
    stream = io.BytesIO()
    write_safetensors(stream, tensors, metadata)
    return stream.getvalue()


def with_ending(path: str | os.PathLike[str]) -> Path:
    """The path with the ending that files of erasures have."""
    target = Path(path)
    return target if target.suffix.lower() == ".safetensors" else target.with_name(target.name + ".safetensors")


def describe(path: str | os.PathLike[str], base: Any = None, force: bool = False, *, concept: str | None = None) -> str:
    """One screen of text about a file; raises what :func:`load` raises.

    Of whole weights without a ``base``: what they are, and what is needed to read them. With one, deltas are looked at
    in low-rank form, and it says how much that leaves out.
    """
    header = open_header(path)
    if base is None and kind_of(header).reader == "weights":
        return whole_report(header)
    return file_report(header, load_as(header, base, concept, Reading(small=True, force=force)))
