"""Guidance methods as their papers print them, plain float64 loops over steps and samples; imports nothing of the core.

Every function takes noise predictions as lists over steps of [B, C, H, W] and gives the guided ones. Progress of step
i of n is i / n; a window [start, end) and its ramps are read there.
"""

import math

import torch


def gain(i, n, start=0.0, end=1.0, ramp=0.0):
    p = i / n
    if start >= end:
        return 0.0
    if start - 1e-9 <= p and (p < end - 1e-9 or end == 1.0):
        return 1.0
    if ramp == 0:
        return 0.0
    away = start - p if p < start else p - end
    return max(0.0, 1.0 - away / ramp) if away < ramp - 1e-9 else 0.0


def inner(a, b):
    """Sum of products, element by element."""
    return math.fsum(float(x) * float(y) for x, y in zip(a.flatten().tolist(), b.flatten().tolist(), strict=True))


def negative(u, c, n, w, **window):
    """Negative prompt inside the window, empty prompt outside."""
    out = []
    for i in range(len(u)):
        g = gain(i, len(u), **window)
        replaced = n[i] + w * (c[i] - n[i])
        plain = u[i] + w * (c[i] - u[i])
        out.append(g * replaced + (1 - g) * plain)
    return out


def adaptive(u, c, n, w):
    """The adaptive window of every sample, between 0.1 and 0.6 of the run."""
    least, opened, low, closed = {}, {}, {}, {}
    out = []
    for i in range(len(u)):
        rows = []
        for b in range(len(u[i])):
            value = u[i][b] + w * (c[i][b] - u[i][b])
            if 0.1 <= i / len(u) < 0.6:
                dn, dc = n[i][b] - u[i][b], c[i][b] - u[i][b]
                s = inner(dn, dc) / math.sqrt(inner(dn, dn) * inner(dc, dc))
                if (b in least and s >= least[b] + 0.05) or s > 0.2:
                    opened[b] = True
                least[b] = min(s, least.get(b, s))
                low[b] = low.get(b, 0) + 1 if opened.get(b) and s < 0.05 else 0
                closed[b] = closed.get(b, False) or low[b] >= 2
                if opened.get(b) and not closed[b]:
                    value = n[i][b] + w * (c[i][b] - n[i][b])
            rows.append(value)
        out.append(torch.stack(rows))
    return out


def negation(u, c, concepts, w, w_n=None, weights=None, **window):
    w_n = w if w_n is None else w_n
    out = []
    for i in range(len(u)):
        e = u[i] + w * (c[i] - u[i])
        for k, p in enumerate(concepts):
            factor = w_n * gain(i, len(u), **window) * (weights[k] if weights else 1.0)
            e = e - factor * (p[i] - u[i])
        out.append(e)
    return out


def sld(u, c, s, w, warmup, scale, threshold, s_m, beta, floor=0.0):
    """Safe Latent Diffusion: warmup in steps."""
    nu = torch.zeros_like(u[0])
    out = []
    for i in range(len(u)):
        gamma = torch.zeros_like(u[i])
        for at in torch.cartesian_prod(*(torch.arange(d) for d in u[i].shape)).tolist():
            at = tuple(at)
            difference = float(c[i][at] - s[i][at])
            phi = max(min(1.0, scale * abs(difference)), floor)
            mu = phi if difference < threshold else 0.0
            gamma[at] = mu * (s[i][at] - u[i][at]) + s_m * nu[at]
        nu = beta * nu + (1 - beta) * gamma
        out.append(u[i] + w * (c[i] - u[i] - gamma) if i >= warmup else u[i] + w * (c[i] - u[i]))
    return out


def sega(u, c, edits, w, signs, scales, levels, weights, warmups, cooldowns, s_m, beta, gather=False):
    """SEGA: warm-ups and cool-downs in steps. ``gather``: edits feed the momentum before their warm-up is over."""
    nu = torch.zeros_like(u[0])
    out = []
    for i in range(len(u)):
        everything, begun = torch.zeros_like(u[i]), torch.zeros_like(u[i])
        for k, e in enumerate(edits):
            if i >= cooldowns[k] or (i < warmups[k] and not gather):
                continue
            psi = signs[k] * scales[k] * (e[i] - u[i])
            for b in range(psi.shape[0]):
                for ch in range(psi.shape[1]):
                    sizes = sorted(psi[b, ch].abs().flatten().tolist(), reverse=True)
                    survivors = max(1, math.ceil(round((1 - levels[k]) * len(sizes), 9)))
                    limit = sizes[survivors - 1]
                    kept = torch.where(psi[b, ch].abs() >= limit, psi[b, ch], 0.0 * psi[b, ch])
                    everything[b, ch] += weights[k] * kept
                    if i >= warmups[k]:
                        begun[b, ch] += weights[k] * kept
        over = all(i >= warmup for warmup in warmups)
        gamma = everything + (s_m * nu if over or gather else 0.0)
        nu = beta * nu + (1 - beta) * gamma
        out.append(u[i] + w * (c[i] - u[i]) + (gamma if over else begun))
    return out


def perp_neg(u, c, negatives, w, betas, blend=1.0, **window):
    out = []
    for i in range(len(u)):
        rows = []
        for b in range(len(u[i])):
            pos = c[i][b] - u[i][b]
            total = pos.clone()
            for neg, beta in zip(negatives, betas, strict=True):
                n = neg[i][b] - u[i][b]
                perp = n - inner(n, pos) / inner(pos, pos) * pos
                total = total - beta * gain(i, len(u), **window) * ((1 - blend) * n + blend * perp)
            rows.append(u[i][b] + w * total)
        out.append(torch.stack(rows))
    return out


def dng_kernel(u, c, n, w, x, abar, lambda0, prior, tau, delta, p_max, guided=True):
    """Dynamic Negative Guidance with a DDPM sampler: x over steps and one more, abar falling noise as in training."""
    out = []
    log_p = [math.log(prior)] * len(u[0])
    for i in range(len(u)):
        base = u[i] + w * (c[i] - u[i])
        about = base if guided else u[i]
        rows = []
        for b in range(len(base)):
            p = math.exp(log_p[b])
            rows.append(base[b] - lambda0 * p / (1 - p) * (n[i][b] - about[b]))
        out.append(torch.stack(rows))
        if i + 1 == len(u):
            break
        alpha = abar[i] / abar[i + 1]
        var = (1 - abar[i + 1]) / (1 - abar[i]) * (1 - alpha)
        for b in range(len(base)):
            mean_b = (x[i][b] - (1 - alpha) / math.sqrt(1 - abar[i]) * about[b]) / math.sqrt(alpha)
            mean_n = (x[i][b] - (1 - alpha) / math.sqrt(1 - abar[i]) * n[i][b]) / math.sqrt(alpha)
            to_n, to_b = x[i + 1][b] - mean_n, x[i + 1][b] - mean_b
            log_p[b] += (-tau * (inner(to_n, to_n) - inner(to_b, to_b)) + delta) / (2 * var)
            log_p[b] = min(max(log_p[b], math.log(1e-6)), math.log(p_max))
    return out


def dng_approximate(u, c, n, w, lambda0, prior, kappa, p_max):
    """The surrogate for deterministic samplers: evidence of a step counts in the same step."""
    p = [prior] * len(u[0])
    out = []
    for i in range(len(u)):
        rows = []
        for b in range(len(u[i])):
            far, near = c[i][b] - u[i][b], c[i][b] - n[i][b]
            a, d = inner(far, far), inner(near, near)
            logit = math.log(p[b] / (1 - p[b])) + kappa * (a - d) / (a + d)
            p[b] = min(max(1 / (1 + math.exp(-logit)), 1e-6), p_max)
            base = u[i][b] + w * (c[i][b] - u[i][b])
            rows.append(base - lambda0 * p[b] / (1 - p[b]) * (n[i][b] - base))
        out.append(torch.stack(rows))
    return out


def all_but_one(u, c, n, anchor, w, g, h, ratio, **window):
    out = []
    for i in range(len(u)):
        rows = []
        for b in range(len(u[i])):
            dc, dn, da = c[i][b] - u[i][b], n[i][b] - u[i][b], anchor[i][b] - u[i][b]
            r = min(max(inner(dc, dn) / inner(dn, dn), 0.0), 1.0) if ratio else 1.0
            r *= gain(i, len(u), **window)
            rows.append(u[i][b] + w * (dc - r * g * dn + r * h * da))
        out.append(torch.stack(rows))
    return out
