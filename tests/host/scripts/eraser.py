"""Random erasures of weights for the host's models, and models with the same changes in their very weights."""

import copy
import dataclasses
import importlib
import math

import graph
import torch

FLUX = ("attn.", "norm1.linear", "norm.linear", "ff.net", "ff_context.net", "proj_mlp", "proj_out", "norm_out")
KINDS = ("attn1.to_", "attn2.to_", "ff.net", "proj_in", "proj_out", "conv", "time_emb_proj", "time_embedding")


def core(name):
    """A module of the pack's core, as the nodes have it."""
    return importlib.import_module(f"{graph.NAME}.erasure_core.{name}")


def names(model, clip):
    """Canonical name -> (slot in the host's weight, shape) of every weight of the denoiser."""
    weights = importlib.import_module(f"{graph.NAME}.nodes.model").HostModel(model, clip)._weights
    shapes = weights.shapes()
    mine = (name for name in shapes if name.startswith(("unet.", "transformer.")))
    return {name: (weights.slots[name], shapes[name]) for name in mine}


def deltas(model, clip, rank, seed, kinds=KINDS, size=0.3, whole=False):
    """canonical name -> WeightDelta for all weights whose names hold one of ``kinds``."""
    delta, made = core("erasure").WeightDelta, {}
    for i, (name, (_, shape)) in enumerate(names(model, clip).items()):
        if len(shape) < 2 or not name.endswith(".weight") or not any(kind in name for kind in kinds):
            continue
        random = torch.Generator().manual_seed(1000 * seed + i)
        down = torch.randn(rank, *shape[1:], generator=random) / math.prod(shape[1:]) ** 0.5
        up = torch.randn(shape[0], rank, *[1] * (len(shape) - 2), generator=random)
        if whole:
            made[name] = delta(name, diff=((up.flatten(1) @ down.flatten(1)) * size / rank).reshape(shape))
        else:
            made[name] = delta(name, down=down, up=up, scale=size / rank)
    return made


def bottlenecks(model, clip, rank, seed):
    made, random = {}, torch.Generator().manual_seed(seed)
    for name, (_, shape) in names(model, clip).items():
        attention, _, end = name.partition(".to_out.0.weight")
        if not attention.endswith("attn2") or name != f"{attention}.to_out.0.weight" or end:
            continue
        width = shape[0]
        made[attention] = core("bottleneck").Bottleneck(
            attention,
            torch.randn(rank, width, generator=random) / width**0.5,
            torch.randn(rank, generator=random),
            torch.randn(width, rank, generator=random) * 0.3,
            torch.randn(width, generator=random) * 0.1,
        )
    return made


def membrane(changes=(), erasers=(), phrases=("circle",), rows="positive", **settings):
    erasure = core("erasure").Erasure(
        weight_deltas=dict(changes), bottlenecks=dict(erasers), gate={"phrases": list(phrases), "rows": rows}
    )
    return core("membranes").Membrane(erasure, **{"gate": "always", **settings})


class Eraser(torch.nn.Module):
    """A layer and what an eraser adds to its output, by the formula."""

    def __init__(self, layer, parts):
        super().__init__()
        self.layer, self.parts = layer, parts

    def forward(self, x):
        a = self.layer(x)
        total = a
        for gain, e in self.parts:
            hidden = torch.nn.functional.gelu(a @ e.down.T + e.down_bias)
            total = total + gain * (hidden @ e.up.T + e.up_bias)
        return total


def merged(model, clip, parts):
    """A MODEL of its own whose weights hold the sum of ``parts``: (gain, deltas, bottlenecks)."""
    with torch.inference_mode(False), torch.no_grad():
        network = copy.copy(model.model)
        network._modules = {**network._modules, "diffusion_model": copy.deepcopy(model.model.diffusion_model)}
        weights = dict(network.named_parameters())
        for name, (slot, _) in names(model, clip).items():
            total = sum(
                gain * (d.diff.double() if d.diff is not None else product(d)) * d.scale
                for gain, changes, _ in parts
                if (d := changes.get(name)) is not None
            )
            if isinstance(total, torch.Tensor):
                start = slot.start or 0
                rows = weights[slot.key][start : start + (slot.length or len(weights[slot.key]))]
                rows.copy_((rows.double() + slot.given(total)).float())
        for attention in dict.fromkeys(a for _, _, erasers in parts for a in erasers):
            path = names(model, clip)[f"{attention}.to_out.0.weight"][0].key.rpartition(".to_out.0.")[0]
            own = [(gain, erasers[attention]) for gain, _, erasers in parts if attention in erasers]
            owner = network.get_submodule(path)
            owner.to_out[0] = Eraser(owner.to_out[0], own)
    return type(model)(network, load_device=model.load_device, offload_device=model.offload_device)


def product(delta):
    down, up = delta.down.double(), delta.up.double()
    return sum(up[:, r].reshape(-1, *[1] * (down.dim() - 1)) * down[r][None] for r in range(down.shape[0]))


def hooks(model):
    """Forward hooks on any module of the denoiser."""
    return sum(len(module._forward_hooks) for module in model.model.modules())


def changed(one, **values):
    return dataclasses.replace(one, **values)
