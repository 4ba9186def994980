"""Models stored in few bits, models that do not fit, and hosts short of memory."""

import contextlib

import comfy.model_management as management
import graph
import tiny
import torch
from comfy.patcher_extension import WrappersMP

DTYPES = ("float16", "bfloat16", "float8_e4m3fn")


def answers(model, *prompts):
    return graph.predictions(model, *prompts, batch=1)


def rounded(kind, dtype):
    """A float32 model with the very numbers of one that is stored as ``dtype``."""
    exact, stored = tiny.unet(kind), tiny.unet(kind, dtype=dtype, cast=torch.float32)
    numbers = {name: tensor.to(torch.float32) for name, tensor in stored.model.state_dict().items()}
    with torch.inference_mode(False):
        exact.model.load_state_dict(numbers)
    return exact, stored


def few_bits(name):
    dtype = getattr(torch, name)
    exact, stored = rounded("sd1", dtype)
    clip = tiny.text_encoder()
    some = graph.membranes(exact, clip)
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")
    computed = tiny.unet(dtype=dtype) if name != "float8_e4m3fn" else None  # which nothing computes in
    made = {
        "plain": answers(stored, *prompts),
        "text": answers(graph.apply(stored, clip, some)[0], *prompts),
        "weights": answers(graph.apply(stored, clip, some, act_on="weights")[0], *prompts),
        "in float32": answers(graph.apply(exact, clip, some)[0], *prompts),
        "off": answers(graph.apply(stored, clip, [graph.changed(some[0], strength=0.0)])[0], *prompts),
    }
    result = {
        "stored as": str(stored.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_k.weight.dtype),
        "acts": graph.difference(made["text"], made["plain"]),
        "off, bitwise": graph.same(made["off"], made["plain"]),
        "text": graph.difference(made["text"], made["in float32"]),
        "weights": graph.difference(made["weights"], made["text"]),
    }
    if computed is not None:
        found = [answers(graph.apply(computed, clip, some, act_on=a)[0], *prompts) for a in ("text", "weights")]
        result["computed: plain"] = graph.difference(answers(computed, *prompts), answers(exact, *prompts))
        result["computed: text"] = graph.difference(found[0], made["in float32"])
        result["computed: weights"] = graph.difference(found[1], found[0])
    return result


class Packed(torch.Tensor):
    """A weight in a packed form, marked as packs of quantised models mark theirs."""

    tensor_type = "Q8_0"


def quantised(packed):
    """Cross-attention in eight bits, unpacked as it runs; returns the model and the same numbers in float32."""
    model, exact = tiny.unet(), tiny.unet()
    with torch.inference_mode(False):
        for name, module in model.model.named_modules():
            if not name.endswith(("attn2.to_k", "attn2.to_v")):
                continue
            scale = module.weight.detach().abs().max() / 127
            whole = (module.weight.detach() / scale).round().to(torch.int8)
            numbers = whole.float() * scale
            exact.model.get_submodule(name).weight.data.copy_(numbers)
            stored = numbers.as_subclass(Packed) if packed else whole
            module.weight = torch.nn.Parameter(stored, requires_grad=False)
            module.forward = lambda x, w=numbers: torch.nn.functional.linear(x, w.to(x))
    return model, exact


def eight_bits(packed):
    model, exact = quantised(packed)
    clip = tiny.text_encoder()
    some = graph.membranes(exact, clip)
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")
    text = answers(graph.apply(model, clip, some)[0], *prompts)
    return {
        "text": graph.difference(text, answers(graph.apply(exact, clip, some)[0], *prompts)),
        "acts": graph.difference(text, answers(model, *prompts)),
        "refused": graph.refusal(graph.apply, model, clip, some, act_on="weights"),
        "text refused": graph.refusal(graph.apply, model, clip, some),
    }


def broken_weights():
    model, clip = tiny.unet(), tiny.text_encoder()
    some = graph.membranes(model, clip)
    with torch.inference_mode(False):
        model.model.diffusion_model.middle_block[1].transformer_blocks[0].attn2.to_v.weight.data[3, 4] = float("nan")
    return graph.refusal(graph.apply, model, clip, some, act_on="weights")


@contextlib.contextmanager
def replaced(module, **values):
    before = {name: getattr(module, name) for name in values}
    for name, value in values.items():
        setattr(module, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(module, name, value)


def counted(model, prompts):
    """Predictions, and how many chunks each call of the U-Net had."""
    chunks = []

    def look(executor, x, timesteps, context, y=None, control=None, transformer_options=None, **kwargs):
        chunks.append(list(transformer_options["cond_or_uncond"]))
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    spied = model.clone()
    spied.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, "last", look)
    return answers(spied, *prompts), chunks


def nothing_free(device=None, torch_free_too=False, real=management.get_free_memory):
    """No room for a batch; what attention asks about itself is answered truly."""
    return real(device, True) if torch_free_too else 0


def short_of_memory(kind):
    """The host asks for the two prompts in separate calls where memory is short."""
    model, clip = tiny.unet(kind), tiny.text_encoder(kind)
    result = {}
    for gate in ("always", "words"):
        for rows in ("cond", "all"):
            some = graph.membranes(model, clip, gate=gate)
            mapped, encoder = graph.apply(model, clip, some, rows)
            prompts = graph.text(encoder, "a red circle"), graph.text(encoder, "a blue circle")
            normal, together = counted(mapped, prompts)
            with replaced(management, get_free_memory=nothing_free):
                short, apart = counted(mapped, prompts)
            result[f"{gate} {rows}"] = {
                "acts": graph.difference(normal, answers(model, *prompts)),
                "short": graph.difference(short, normal),
                "together": sorted(map(sorted, together))[0],
                "apart": sorted(apart),
            }
    return result


def offloaded():
    """Weights that stay outside the device and are fetched, and patched, as each layer runs."""
    clip = tiny.text_encoder()
    some = graph.membranes(tiny.unet(), clip)
    prompts = graph.text(clip, "a red circle"), graph.text(clip, "blurred")
    made = {}
    for act_on in ("text", "weights"):
        made[act_on] = answers(graph.apply(tiny.unet(), clip, some, act_on=act_on)[0], *prompts)
        low = graph.apply(tiny.unet(), clip, some, act_on=act_on)[0]
        state = {"vram_state": management.VRAMState.NO_VRAM, "is_device_cpu": lambda device: False}
        with replaced(management, **state):
            made[f"{act_on}, low"] = answers(low, *prompts)
            made[f"{act_on}, offloaded"] = low.model.model_lowvram
    plain = answers(tiny.unet(), *prompts)
    return {
        "offloaded": [made["text, offloaded"], made["weights, offloaded"]],
        "acts": graph.difference(made["text"], plain),
        "text": graph.difference(made["text, low"], made["text"]),
        "weights": graph.difference(made["weights, low"], made["weights"]),
    }


def main():
    return {
        **{name: few_bits(name) for name in DTYPES},
        "int8": eight_bits(packed=False),
        "packed": eight_bits(packed=True),
        "nan": broken_weights(),
        "short": {kind: short_of_memory(kind) for kind in ("sd1", "sdxl")},
        "offloaded": offloaded(),
    }
