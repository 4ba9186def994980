"""A pack for the tests only: says, from inside the server, what hangs on a model and how much memory is in use."""

import json
import resource
from pathlib import Path

PAGE = resource.getpagesize()


def hooks(model):
    """Hooks of any kind on the modules of the model that all clones share."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in model.model.modules() for kind in kinds)


def memory():
    """Resident bytes of the server."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * PAGE


class Probe:
    """MODEL -> JSON of what hangs on it."""

    CATEGORY = "test"
    RETURN_TYPES = ()
    FUNCTION = "run"
    OUTPUT_NODE = True

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"model": ("MODEL",), "salt": ("INT", {"default": 0, "max": 2**31})}}

    def run(self, model, salt):
        """``salt`` makes each run a new one."""
        found = {
            "hooks": hooks(model),
            "wrappers": sum(len(some) for kind in model.wrappers.values() for some in kind.values()),
            "callbacks": sum(len(some) for kind in model.callbacks.values() for some in kind.values()),
            "patches": sum(map(len, model.patches.values())),
            "object_patches": sorted(model.object_patches),
            "options": sorted(model.model_options["transformer_options"]),
            "memory": memory(),
        }
        return {"ui": {"text": [json.dumps(found)]}}


NODE_CLASS_MAPPINGS = {"TestProbe": Probe}
