"""Train an erasure for a model and write it to a file that every LoRA loader reads. The model itself is not changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import BadInput
from .console import Progress, complain, say
from .shared import add_concepts, add_explain, add_file_form, add_model, check_free, dtype, load_model, read_concepts

if TYPE_CHECKING:
    from torch import Tensor

    from ..concepts import ConceptSet
    from ..erasure import Erasure
    from ..models import Model
    from ..training import Report
    from ..training.trainable import TrainableModel

    class TrainedModel(Model, TrainableModel):
        """A pipeline is both."""


NAME = "train"
HELP = "train a membrane: slower than erase, for what no closed form reaches"
EXAMPLES = """\
  python -m erasure_core train --concepts "star -> heart" --concepts "+ a moon" --out no-star.safetensors
  python -m erasure_core train --concepts "style: Van Gogh" --method esd --model ~/models/sd15 --out vg.safetensors
  python -m erasure_core train --config spm.yaml --model ~/models/sd15 --out mickey.safetensors
  python -m erasure_core train --concepts star --preset fast --previews pictures --out no-star.safetensors

Ctrl-C stops it and keeps what was learned: the file is usable, and the same command goes on where it was.

what a method is for, and its settings:
  python -m erasure_core train --explain spm
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_concepts(parser)
    parser.add_argument("--kind", default="object", help="kind of the concepts that name none (default object)")
    add_model(parser)
    parser.add_argument("--method", help="how to train it (default spm, or what the configuration says)")
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="settings made for SPM, LECO, Concept Sliders (YAML) or ACE (a text with its command)",
    )
    parser.add_argument(
        "--attribute",
        action="append",
        default=[],
        metavar="WORD",
        help="put before every text of a Concept Sliders configuration in turn; may be given again",
    )
    parser.add_argument(
        "--preset",
        default="balanced",
        choices=("fast", "balanced", "thorough"),
        help="how long: two fifths of the method's usual steps, all, or three times as many",
    )
    parser.add_argument("--steps", type=int, help="updates, in place of the preset's")
    parser.add_argument("--rank", type=int, help="rank of the pairs of matrices (default: the method's)")
    parser.add_argument("--seed", type=int, default=0, help="of everything random (default 0)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="NAME=VALUE", help="setting of the method; may be given again"
    )
    add_explain(parser, "training")
    parser.add_argument("--previews", type=Path, metavar="DIR", help="pictures of the concept and a neighbour go here")
    parser.add_argument("--every", type=int, default=50, metavar="N", help="updates between two previews (default 50)")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")
    add_file_form(parser)


def run(options: argparse.Namespace) -> int:
    """Train, save, and say what was made."""
    from ..options import parse_options
    from ..training import Callbacks, learned, train

    state = options.out.with_name(f"{options.out.name}.training")
    check_free(options.out, options.overwrite or state.exists())
    if options.every < 1:
        raise BadInput(f"--every is a number of updates from 1 up, not {options.every}.")
    settings: dict[str, Any] = parse_options(",".join(options.option))
    for name in ("steps", "rank", "seed"):
        if name in settings:
            raise BadInput(f"'{name}' is an option of its own. Say it as --{name}, without --option.")
        if getattr(options, name) is not None:
            settings[name] = getattr(options, name)
    concepts, given = _asked(options, settings)
    model = cast("TrainedModel", load_model(options.model))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with Progress() as progress:

        def report(made: Report) -> None:
            progress(made.step, made.steps, f"loss {made.loss:.4g}")

        def preview(step: int, latents: Tensor) -> None:
            _draw(model, latents, options.previews / f"{step:05}.png")

        told = Callbacks(report, preview if options.previews is not None else None, options.every)
        try:
            erasure = train(model, concepts, callbacks=told, state=state, **given)
        except KeyboardInterrupt:
            if state.exists():
                _save(model, learned(model, concepts, state, **given), options)
                complain("What was learned is in the file. The same command goes on with the training.")
            raise
    _save(model, erasure, options)
    state.unlink(missing_ok=True)
    return 0


def _asked(options: argparse.Namespace, settings: dict[str, Any]) -> tuple[ConceptSet, dict[str, Any]]:
    """What to train, from the configuration or the concepts, and the other arguments; the command line goes first."""
    from ..concepts import parse_concepts

    given = {"preserve": options.preserve, "preset": options.preset}
    if options.config is None:
        concepts = parse_concepts(read_concepts(options.concepts), options.kind)
        return concepts, {**given, "method": options.method or "spm", **settings}
    from ..training.configs import read_configuration

    if options.concepts:
        raise BadInput("The configuration says what to erase. Leave out --concepts, or --config.")
    found = read_configuration(options.config, options.attribute)
    if options.method not in (None, found.method):
        raise BadInput(f"{options.config.name} is for {found.method}, not for {options.method}. Leave out --method.")
    for note in found.notes:
        complain(f"note: {note}")
    return found.concepts, {
        **given,
        "method": found.method,
        "examples": found.examples,
        **found.options,
        **settings,
    }


def _save(model: Model, erasure: Erasure, options: argparse.Namespace) -> None:
    from ..formats import save
    from ..membranes import Membrane, apply

    weights = model.weights() if options.form == "lora" else None
    path = save(erasure, options.out, form=options.form, weights=weights, dtype=dtype(options.dtype))
    numbers = erasure.diagnostics["training"]
    method, steps = erasure.recipe["method"], erasure.recipe["steps"]
    say(f"{steps} steps of {method} in {numbers['seconds']:.0f} s, loss {numbers['loss_first']:.4g} at first, "
        f"{numbers['loss_last']:.4g} at last")  # fmt: skip
    with apply(model, Membrane(erasure)) as applied:
        say(applied.receipt)
    say(f"{path} ({options.form}, {path.stat().st_size / 1000:.1f} kB)")


def _draw(model: Model, latents: Tensor, path: Path) -> None:
    """The previews side by side as one picture."""
    import io

    import numpy as np
    from PIL import Image

    from ..atomic import write_bytes

    pictures = model.decode(latents)
    row = (pictures.permute(2, 0, 3, 1).flatten(1, 2).numpy() * 255).round().astype(np.uint8)
    data = io.BytesIO()
    Image.fromarray(row).save(data, "PNG")
    write_bytes(path, data.getvalue())
