"""Load, save, apply and inspect membranes: the list of erasures that travels along MEMBRANE links."""

from __future__ import annotations

from typing import Any

from .common import OUTPUTS, clip_input, model_input, part_input, refusal, strength_input

NONE = "(no file yet)"


class LoadMembrane:
    """A file -> one more membrane in the list."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Reads an erasure in any published format: Membrane's own, LoRA (SPM, ACE, Sliders), whole weights (ESD, UCE, "
        "MACE, AdvUnlearn), Receler. Chain several of these through 'membranes' like LoRA loaders. A renamed file is "
        "found by its content."
    )
    RETURN_TYPES = ("MEMBRANE",)
    RETURN_NAMES = ("membranes",)
    OUTPUT_TOOLTIPS = ("The list with this membrane at its end, for Apply Membranes.",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """File, strength, gate, and a list to extend."""
        from ..erasure_core.gates import GATES
        from . import host

        return {
            "required": {
                "file": (
                    host.file_names() or [NONE],
                    {
                        "tooltip": "A file in models/membranes, or loras/... for one in models/loras. What it is, its "
                        "content says; .pt and .bin are read without running anything in them."
                    },
                ),
                "strength": strength_input(),
                "gate": (
                    list(GATES),
                    {
                        "default": "auto",
                        "tooltip": "When it acts. auto = calibrated if the file says what it erases, else always; "
                        "calibrated = for prompts that name the concept, partly for those that describe it; words = "
                        "only if named; likeness = by the text's vectors; either = the larger of these two; both = "
                        "their product; transport = as published with SPM; always = for every prompt. Closed = the "
                        "picture stays the same to the last bit.",
                    },
                ),
            },
            "optional": {
                "membranes": (
                    "MEMBRANE",
                    {"tooltip": "Membranes to which this one is added. Not connected = the list starts here."},
                ),
                "start": part_input(0.0, "When in the sampling it begins to act: 0 = from the first step on."),
                "end": part_input(1.0, "When in the sampling it stops acting: 1 = after the last step."),
                "base": (
                    "MODEL",
                    {
                        "tooltip": "Only for files of whole weights (ESD, UCE, MACE, ...): the checkpoint they were "
                        "trained from, without LoRAs. What they change in it is found once and kept."
                    },
                ),
                "base_clip": (
                    "CLIP",
                    {"tooltip": "Only for files that hold a text encoder (AdvUnlearn, ...): the CLIP of 'base'."},
                ),
                "concept": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "What the file erases, for gates that need words, where it does not say: "
                        "Mickey Mouse | Steamboat Willie. Empty = what the file says.",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, file: str | None) -> bool:
        """A name that is not in the list is no error yet: the file may be found by its content."""
        return True

    @classmethod
    def IS_CHANGED(cls, file: str, **others: Any) -> Any:
        """What the file is now."""
        from . import host
        from .files import state_of

        return state_of(host.file_path(file))

    def run(
        self,
        file: str,
        strength: float,
        gate: str,
        membranes: Any = None,
        start: float = 0.0,
        end: float = 1.0,
        base: Any = None,
        base_clip: Any = None,
        concept: str = "",
        unique_id: str | None = None,
        extra_pnginfo: Any = None,
    ) -> dict[str, Any]:
        """Read the file and add it to the list."""
        from ..erasure_core import Membrane
        from .files import find
        from .reading import Base
        from .show import loaded

        found = find(file, extra_pnginfo, unique_id, Base(base, base_clip, unique_id), concept)
        membrane = Membrane(found.erasure, strength=strength, gate=gate, name=found.name, start=start, end=end)
        return loaded((*(membranes or ()), membrane), found)


class SaveMembrane:
    """A list -> one file."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Writes membranes into one .safetensors file: 'native' is a few kilobytes and fits every model with the same "
        "text encoder; 'lora' is for any program that loads LoRA, for one model. Several membranes become one."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("file",)
    OUTPUT_TOOLTIPS = ("Name of the file, as Load Membrane lists it.",)
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to save, where, and in which form."""
        return {
            "required": {
                "membranes": ("MEMBRANE", {"tooltip": "What to save, from Erase or Load Membrane."}),
                "name": (
                    "STRING",
                    {
                        "default": "erasure",
                        "tooltip": "File name without ending, in models/membranes (native) or models/loras (lora). "
                        "Subfolders with / are made; %date% patterns as in Save Image.",
                    },
                ),
                "form": (
                    ["native", "lora"],
                    {
                        "default": "native",
                        "tooltip": "native = kilobytes, with everything needed to gate, join and solve again. "
                        "lora = plain LoRA for ComfyUI, AUTOMATIC1111, Forge and diffusers; acts on every prompt.",
                    },
                ),
                "precision": (
                    ["fp32", "fp16"],
                    {"default": "fp32", "tooltip": "Of a lora: fp32 = exact, fp16 = half the size. native is fp32."},
                ),
                "overwrite": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "tooltip": "If the file exists with other content: on = replace it, off = save beside it "
                        "with a number. The same content is never written twice.",
                    },
                ),
            },
            "optional": {
                "model": ("MODEL", {"tooltip": "For the lora form: the model it will be used with. Else not needed."}),
                "clip": ("CLIP", {"tooltip": "For the lora form: the text encoder of the same checkpoint."}),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(
        self,
        membranes: Any,
        name: str,
        form: str,
        precision: str,
        overwrite: bool,
        model: Any = None,
        clip: Any = None,
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Add up and write."""
        from .files import write
        from .show import saved

        return saved(write(membranes, name, form, precision, overwrite, model, clip, unique_id))


class ApplyMembranes:
    """MODEL, CLIP, a list -> the same with the membranes in force."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Puts membranes in force: connect MODEL and CLIP to whatever would have used the checkpoint's. After each run "
        "the node shows how far every membrane acted on every prompt."
    )
    RETURN_TYPES = ("MODEL", "CLIP", "STRING")
    RETURN_NAMES = ("model", "clip", "receipt")
    OUTPUT_TOOLTIPS = OUTPUTS
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """What to change, the list, which prompts and in which form."""
        return {
            "required": {
                "model": model_input(),
                "clip": clip_input(),
                "membranes": ("MEMBRANE", {"tooltip": "The list, from Load Membrane or Erase."}),
                "rows": (
                    ["cond", "all"],
                    {
                        "default": "cond",
                        "tooltip": "cond = the negative prompt's text stays as it is, and changes of layers act on it "
                        "as far as on the prompt; all = every text by its own gate.",
                    },
                ),
                "act_on": (
                    ["auto", "text", "weights"],
                    {
                        "default": "auto",
                        "tooltip": "text = the prompt is changed on its way into the model, or what its layers give; "
                        "touches no weight, works on fp8 and GGUF. weights = baked in, for save nodes; no gates. "
                        "auto = text, but whole differences that act always are baked in.",
                    },
                ),
            },
            "optional": {
                "options": (
                    "STRING",
                    {
                        "default": "",
                        "tooltip": "How trained membranes are chained: chain_mode=official_compat as SPM's scripts do, "
                        "gain_power=2 squares the gates' gains. Empty = their plain sum.",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, options: str | None = "") -> bool | str:
        """A message if the options cannot be read."""
        from ..erasure_core.plan import Chaining

        return refusal(Chaining.read, options)

    def run(
        self,
        model: Any,
        clip: Any,
        membranes: Any,
        rows: str,
        act_on: str,
        options: str = "",
        unique_id: str | None = None,
    ) -> dict[str, Any]:
        """Apply all of them at once."""
        from ..erasure_core import apply
        from ..erasure_core.plan import Chaining
        from .model import HostModel
        from .show import applied

        return applied(apply(HostModel(model, clip, unique_id), membranes, act_on, rows, **Chaining.read(options)))


class Inspect:
    """A list -> what is in it, and what a prompt would open."""

    CATEGORY = "Membrane"
    DESCRIPTION = (
        "Says what membranes are: concepts, method, settings, layers, ranks, and what was measured. With a prompt, "
        "MODEL and CLIP it also says how far each of them would act on that prompt, without drawing a picture."
    )
    RETURN_TYPES = ("STRING",)
    RETURN_NAMES = ("text",)
    OUTPUT_TOOLTIPS = ("Everything that is known, as text.",)
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:
        """The list, and a prompt with what encodes it."""
        return {
            "required": {"membranes": ("MEMBRANE", {"tooltip": "From Erase or Load Membrane."})},
            "optional": {
                "model": ("MODEL", {"tooltip": "Only for the question about a prompt: the model it is for."}),
                "clip": ("CLIP", {"tooltip": "Only for the question about a prompt: what encodes it."}),
                "prompt": (
                    "STRING",
                    {
                        "default": "",
                        "multiline": True,
                        "tooltip": "What would this prompt activate? The answer are bars and numbers, one for each "
                        "membrane. Empty = only say what the membranes are.",
                    },
                ),
            },
            "hidden": {"unique_id": "UNIQUE_ID"},
        }

    def run(
        self, membranes: Any, model: Any = None, clip: Any = None, prompt: str = "", unique_id: str | None = None
    ) -> dict[str, Any]:
        """Describe each membrane and, if asked, judge the prompt."""
        from ..erasure_core.errors import BadInput
        from ..erasure_core.membranes import would_activate
        from .model import HostModel
        from .show import inspected

        if not prompt.strip():
            return inspected(membranes)
        if model is None or clip is None:
            raise BadInput("To say what the prompt would activate, connect MODEL and CLIP of the checkpoint it is for.")
        return inspected(membranes, prompt, would_activate(HostModel(model, clip, unique_id), membranes, prompt))
