"""Denoisers and text encoders of the host opened for training inside a node; numbers go to files for a reference."""

import importlib
import itertools
import json

import comfy.model_management as management
import comfy.model_sampling
import eraser
import graph
import storage
import tiny
import torch
from safetensors.torch import save_file
from torch.nn.functional import linear

PROMPTS = ["a red circle", "a blue square"]
TIMES = (640, 17)


def module(name):
    return importlib.import_module(f"{graph.NAME}.{name}")


class Rank1:
    """A trainable rank-1 change of one layer; its hook counts its calls."""

    def __init__(self, place):
        weight = place.module.weight
        self.down = torch.nn.Parameter(torch.linspace(-1, 1, weight.shape[1]).reshape(1, -1))
        self.up = torch.nn.Parameter(torch.linspace(-1, 1, weight.shape[0]).reshape(-1, 1) * 0.1)
        self.calls = 0
        self.handle = place.module.register_forward_hook(self)

    def __call__(self, layer, args, out):
        self.calls += 1
        return out + linear(linear(args[0].float(), self.down), self.up).to(out.dtype)


def state(patcher):
    """All that has to be as before: the very objects, their bits and flags, modes and hooks."""
    found = {}
    for name, layer in patcher.model.named_modules():
        found[name] = (layer.training, list(layer._forward_hooks), list(layer._forward_pre_hooks), sorted(vars(layer)))
        for key, tensor in itertools.chain(layer.named_parameters(recurse=False), layer.named_buffers(recurse=False)):
            flags = (id(tensor), tensor.requires_grad, tensor.is_inference(), tensor.dtype, tensor.grad is None)
            found[f"{name}.{key}"] = (flags, tensor.detach().clone())
    return found


def bits(tensor):
    tensor = tensor.dequantize() if type(tensor) is not torch.Tensor else tensor
    return tensor.reshape(-1).view(torch.uint8)


def unchanged(before, patcher):
    """Names of what is not as it was."""
    after = state(patcher)
    wrong = list(before.keys() ^ after.keys())
    for name in before.keys() & after.keys():
        for one, other in zip(before[name], after[name], strict=True):
            same = torch.equal(bits(one), bits(other)) if isinstance(one, torch.Tensor) else one == other
            if not same:
                wrong.append(name)
    return wrong


def as_core_loads(model):
    """Weights made in inference mode, as the host's own loaders make them."""
    assert torch.is_inference_mode_enabled()
    for layer in model.model.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            setattr(layer, name, torch.nn.Parameter(parameter.detach().clone(), requires_grad=False))
    return model


def with_user_lora(model, clip):
    """Another pack's LoRA on the model: an ordinary patch of the host."""
    from comfy.weight_adapter import LoRAAdapter

    patches = {}
    for i, (_, (slot, shape)) in enumerate(eraser.names(model, clip).items()):
        if len(shape) == 2 and "attn2" in slot.key:
            generator = torch.Generator().manual_seed(i)
            up, down = (torch.randn(s, generator=generator) * 0.3 for s in ((shape[0], 2), (2, shape[1])))
            patches[slot.key] = LoRAAdapter({slot.key}, (up, down, 2.0, None, None, None))
    changed = model.clone()
    assert len(changed.add_patches(patches)) == len(patches) > 0
    return changed


def v_prediction(model):
    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
        pass

    changed = model.clone()
    changed.add_object_patch("model_sampling", Sampling(model.model.model_config))
    return changed


def rounded(dtype):
    return tiny.unet("sd1", dtype=getattr(torch, dtype), cast=torch.float32), tiny.text_encoder()


def scaled_fp8():
    """Linear layers in eight bits with a scale each, as the host at hand stores them; others in float32."""
    made = tiny.made_of("sd1")
    config = made(dict(made.unet))
    config.set_inference_dtype(torch.float32, None)
    newer = hasattr(config, "quant_config")
    if newer:
        config.quant_config = {"mixed_ops": True}
    else:
        config.scaled_fp8 = torch.float8_e4m3fn
    config.set_inference_dtype(torch.float32, torch.float32)
    network = config.get_model({}, "", device=management.unet_offload_device())
    weights = tiny.random_weights(tiny.shapes_of(tiny.unet().model, "diffusion_model."), 0)
    for name in [n for n in weights if (n.endswith(".weight") and ".attn" in n) or (".ff.net" in n and "weight" in n)]:
        scale = weights[name].abs().max() / 448
        weights[name] = (weights[name] / scale).to(torch.float8_e4m3fn)
        layer = name.removesuffix(".weight")
        if newer:
            weights[f"{layer}.weight_scale"] = scale
            described = json.dumps({"format": "float8_e4m3fn"}).encode()
            weights[f"{layer}.comfy_quant"] = torch.tensor(list(described), dtype=torch.uint8)
        else:
            weights[f"{layer}.scale_weight"] = scale
    network.load_model_weights(dict(weights), "")
    patcher = type(tiny.unet())(
        network, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
    )
    return patcher, tiny.text_encoder()


def numbers_of(layer, key):
    """A parameter as numbers, whatever it is stored as."""
    value = getattr(layer, key)
    scale = getattr(layer, "scale_weight", None)
    if key == "weight" and type(value.data) is not torch.Tensor:
        return value.dequantize().float()
    return value.float() * scale if key == "weight" and scale is not None else value


CASES = {
    "demo": lambda: graph.node("DemoModel")[:2],
    "sd1": lambda: (tiny.unet(), tiny.text_encoder()),
    "sd2-v": lambda: (v_prediction(tiny.unet("sd2")), tiny.text_encoder("sd2")),
    "sdxl": lambda: (tiny.unet("sdxl"), tiny.text_encoder("sdxl")),
    "inference": lambda: (as_core_loads(tiny.unet("sdxl")), tiny.text_encoder("sdxl")),
    **{name: lambda name=name: rounded(name) for name in storage.DTYPES},
}


def lora_case():
    model, clip = CASES["demo"]()
    return with_user_lora(model, clip), clip


def ours_case():
    """An erasure of weights by an earlier node of ours; the reference has it in its very weights."""
    model, clip = CASES["sd1"]()
    some = [eraser.membrane(eraser.deltas(model, clip, 2, 1))]
    return graph.apply(model, clip, some, act_on="weights")


CASES |= {"lora": lora_case, "ours": ours_case, "scaled fp8": scaled_fp8, "low memory": CASES["sd1"]}


def layers_of(target):
    return [layer for layer in target.shapes() if layer.endswith(("attn2.to_k.weight", "attn1.to_q.weight"))][::2]


def measure(kind, path, checkpointing):
    """Prediction and gradients of one case as a node gets them; what was not put back; where it ran."""
    model, clip = CASES[kind]()
    target = module("nodes.model").HostModel(model, clip)
    library = module("erasure_core.training.texts").Library(target, PROMPTS)
    texts = module("erasure_core.training.texts").stack([library[prompt] for prompt in PROMPTS])
    x = torch.randn((2, *target.latent_shape((64, 64))), generator=torch.Generator().manual_seed(3))
    with target.open_denoiser():
        pass  # from here on the host has the weights where it wants them
    before = state(model)
    layers = [name.removesuffix(".weight") for name in layers_of(target)]
    with target.open_denoiser(checkpointing) as network:
        assert not torch.is_inference_mode_enabled() and torch.is_grad_enabled()
        with torch.no_grad():
            plain = network.predict(x, torch.tensor(TIMES), texts)
        adapters = [Rank1(network.place(layer)) for layer in layers]
        out = network.predict(x, torch.tensor(TIMES), texts)
        calls = [adapter.calls for adapter in adapters]
        out.float().square().mean().backward()
        for adapter in adapters:
            adapter.handle.remove()
        given = str(network.dtype)
    assert torch.is_inference_mode_enabled()
    numbers = {"x": x, "hidden": texts.hidden, "plain": plain, "out": out, "sigmas": target.sigmas}
    if texts.pooled is not None:
        numbers["pooled"] = texts.pooled
    for layer, adapter in zip(layers, adapters, strict=True):
        numbers |= {f"down:{layer}": adapter.down.grad, f"up:{layer}": adapter.up.grad}
    if kind in ("ours", "scaled fp8"):  # which are not read as weights, so they come from the very modules
        numbers |= {name: value.detach().clone() for name, value in merged_weights(model, clip).items()}
        if kind == "scaled fp8":
            read = {name: target.weights()[name] for name in numbers if name.startswith("unet.")}
            assert all(graph.difference(read[n][None], numbers[n][None].float()) <= 1e-6 for n in read)
    else:
        weights = target.weights()
        numbers |= {name: weights[name] for name in weights if name.startswith("unet.")}
    save_file({name: value.detach().float().contiguous().clone() for name, value in numbers.items()}, path)
    return {
        "prediction": target.prediction,
        "size": target.size,
        "identity": target.identity,
        "trainable": isinstance(target, module("erasure_core.training.trainable").TrainableModel),
        "dtype": given,
        "stored": str(next(model.model.diffusion_model.parameters()).dtype),
        "layers": layers,
        "calls": [calls, [adapter.calls for adapter in adapters]],
        "wrong": unchanged(before, model),
        "inference": sum(p.is_inference() for p in model.model.parameters()),
        "low": bool(getattr(model.model, "model_lowvram", False)),
    }


def merged_weights(model, clip):
    """Weights of the graph by canonical name with our own patches, as the sampler would have them."""
    slots = eraser.names(model, clip)
    parts = {name: slot.key.rpartition(".") for name, (slot, _) in slots.items()}
    return {
        name: slots[name][0].taken(numbers_of(model.model.get_submodule(layer), key))
        for name, (layer, _, key) in parts.items()
    }


def denoiser(kind, path, checkpointing=False):
    if kind != "low memory":
        return measure(kind, path, checkpointing)
    kept = {"vram_state": management.VRAMState.NO_VRAM, "is_device_cpu": lambda device: False}
    with storage.replaced(management, **kept):
        return measure(kind, path, checkpointing)


def endings():
    """Errors and interruptions on the way, with and without a LoRA in force; then samplings as before."""
    result = {}
    for name, error in (("error", RuntimeError), ("interrupted", management.InterruptProcessingException)):
        model, clip = lora_case()
        prompts = graph.text_pair(clip, "a red circle")
        drawn = graph.draw(model, *prompts)
        target, before = module("nodes.model").HostModel(model, clip), state(model)
        library = module("erasure_core.training.texts").Library(target, PROMPTS)
        caught = ""
        try:
            with target.open_denoiser(True) as network, target.open_text() as reader:
                Rank1(network.place(layers_of(target)[0].removesuffix(".weight"))).handle.remove()
                network.predict(torch.zeros(1, 8, 8, 8), torch.tensor([5]), library["a red circle"])
                reader.read(["a moon"])
                raise error
        except error as found:
            caught = type(found).__name__
        result[name] = {
            "caught": caught,
            "wrong": unchanged(before, model),
            "modes": [torch.is_inference_mode_enabled(), torch.is_grad_enabled()],
            "same picture": graph.same(graph.draw(model, *prompts), drawn),
        }
    return result


def moved():
    """The host takes the weights away between two steps, as it does to decode a preview where memory is short."""
    model, clip = lora_case()
    target = module("nodes.model").HostModel(model, clip)
    library = module("erasure_core.training.texts").Library(target, PROMPTS)
    x, t, text = torch.ones(1, 8, 8, 8), torch.tensor([300]), library[PROMPTS[0]]
    host = module("nodes.host")
    plain = {name: p.detach().clone() for name, p in CASES["demo"]()[0].model.named_parameters()}
    away = []
    with (
        target.open_denoiser() as network,
        storage.replaced(module("nodes.host.training"), is_away=lambda patcher: bool(away) and bool(away.pop())),
        storage.replaced(host, is_away=lambda patcher: bool(away) and bool(away.pop())),
    ):
        before = network.predict(x, t, text)
        with torch.inference_mode():
            management.unload_all_models()
        unloaded = all(torch.equal(p, plain[name]) for name, p in model.model.named_parameters())
        away.append(True)
        after = network.predict(x, t, text)
        adapter = Rank1(network.place(layers_of(target)[0].removesuffix(".weight")))
        network.predict(x, t, text).sum().backward()
        adapter.handle.remove()
    with torch.inference_mode():
        management.unload_all_models()
    return {
        "unloaded": unloaded,
        "same": graph.same(before, after),
        "gradient": bool(adapter.up.grad.abs().max() > 0),
        "base, bitwise": all(torch.equal(p, plain[name]) for name, p in model.model.named_parameters()),
    }


def texts(kind):
    """Text encoders: rows as those of prompts, gradients into a layer of each, everything put back."""
    clip = CASES[kind]()[1]
    skipped = clip.clone()
    if kind == "sd1":
        skipped.clip_layer(-2)
    target = module("nodes.model").HostModel(CASES[kind]()[0], skipped)
    prompts = ["", *PROMPTS, "a (red:1.4) circle"]
    expected = target.encode(prompts)
    before = state(skipped.patcher)
    layers = [
        name for name in target.shapes() if name.endswith(("layers.0.self_attn.q_proj.weight", "0.mlp.fc1.weight"))
    ]
    gradients = {}
    with target.open_text() as reader:
        found = reader.read(prompts)
        for layer in layers:
            adapter = Rank1(reader.place(layer.removesuffix(".weight")))
            read = reader.read(prompts[1:])
            loss = read.hidden.square().sum() + (0 if read.pooled is None else read.pooled.square().sum())
            loss.backward()
            step = 1e-3 * adapter.up.grad / adapter.up.grad.norm()
            values = []
            with torch.no_grad():
                for sign in (1, -1):
                    adapter.up += sign * step
                    read = reader.read(prompts[1:])
                    values.append(
                        (read.hidden.double().square().sum())
                        + (0 if read.pooled is None else read.pooled.double().square().sum())
                    )
                    adapter.up -= sign * step
            adapter.handle.remove()
            slope = float(values[0] - values[1]) / 2e-3
            gradients[layer] = [float(adapter.up.grad.norm()), slope]
    refused = graph.refusal(lambda: target.open_text().__enter__().read(["word " * 90]))
    return {
        "rows": graph.difference(found.hidden, expected.hidden),
        "pooled": None if found.pooled is None else graph.difference(found.pooled, expected.pooled),
        "gradients": gradients,
        "wrong": unchanged(before, skipped.patcher),
        "refused": refused,
    }


def refusals():
    clip = tiny.text_encoder()

    def opened(model, text=clip):
        with module("nodes.model").HostModel(model, text).open_denoiser():
            pass

    class Flow(comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST):
        pass

    flow = tiny.unet().clone()
    flow.add_object_patch("model_sampling", Flow())
    flux = tiny.unet("flux-dev"), tiny.text_encoder("flux-dev")
    return {
        "int8": graph.refusal(opened, storage.quantised(False)[0]),
        "packed": graph.refusal(opened, storage.quantised(True)[0]),
        "flow": graph.refusal(opened, flow),
        "flux": graph.refusal(opened, *flux),
    }


ASKED = (denoiser, texts, endings, moved, refusals)


def main(ask, **values):
    return {function.__name__: function for function in ASKED}[ask](**values)
