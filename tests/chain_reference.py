"""Membranes on layers, written out: dense matrices, one row of the batch at a time, nothing of the package."""

import copy

import torch


def dense(delta):
    """``scale * up @ down`` (or the difference) in the weight's shape, in float64."""
    if delta.diff is not None:
        return delta.diff.double() * delta.scale
    down, up = delta.down.double(), delta.up.double()
    out = torch.zeros(up.shape[0], *down.shape[1:], dtype=torch.float64)
    for r in range(down.shape[0]):
        out += delta.scale * up[:, r].reshape(-1, *[1] * (down.dim() - 1)) * down[r][None]
    return out


class Eraser(torch.nn.Module):
    """A layer and what several erasers add to its output, each its own way."""

    def __init__(self, layer, erasers):
        super().__init__()
        self.layer, self.erasers = layer, erasers

    def forward(self, x, *args, **kwargs):
        a = self.layer(x, *args, **kwargs)
        total = a
        for gain, e in self.erasers:
            hidden = a @ e.down.double().T + e.down_bias.double()
            hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
            total = total + gain * (hidden @ e.up.double().T + e.up_bias.double())
        return total


def changed_unet(unet, gains, deltas, erasers=()):
    """A float64 copy with ``W + sum_i gains[i] * dense(deltas[i][name])`` in every weight; for one row's gains."""
    other = copy.deepcopy(unet).double()
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for gain, changes in zip(gains, deltas, strict=True):
            for name, delta in changes.items():
                parameters[name.removeprefix("unet.")] += gain * dense(delta)
    for name in dict.fromkeys(name for each in erasers for name in each):
        attention = other.get_submodule(name.removeprefix("unet."))
        mine = [(gain, each[name]) for gain, each in zip(gains, erasers, strict=True) if name in each]
        attention.to_out[0] = Eraser(attention.to_out[0], mine)
    return other


def row_by_row(unet, x, t, hidden, gains, deltas, erasers=()):
    """The denoiser's output when row b of the batch meets the membranes with ``gains[b]``."""
    rows = []
    for b in range(len(x)):
        own = changed_unet(unet, gains[b].tolist(), deltas, erasers)
        with torch.no_grad():
            rows.append(own(x[b : b + 1].double(), t, encoder_hidden_states=hidden[b : b + 1].double()).sample)
    return torch.cat(rows)


def published_chain(unet, gains, deltas):
    """A float64 copy changed as the published code of SPM chains files: factors scaled, added up, then multiplied."""
    other = copy.deepcopy(unet).double()
    parameters = dict(other.named_parameters())
    with torch.no_grad():
        for name in deltas[0]:
            up = sum(g * changes[name].up.double() for g, changes in zip(gains, deltas, strict=True))
            down = sum(g * changes[name].down.double() for g, changes in zip(gains, deltas, strict=True))
            weight = parameters[name.removeprefix("unet.")]
            product = deltas[0][name].scale * (up.flatten(1) @ down.flatten(1))
            weight += product.reshape(weight.shape)
    return other
