"""LEACE and its oracle by their theorems, with explicit d x d matrices; imports nothing of the core."""

import torch


def covariances(x, z):
    """Unbiased covariance of the rows and cross-covariance with the labels."""
    xc, zc = x - x.mean(0), z - z.mean(0)
    return xc.T @ xc / (len(x) - 1), xc.T @ zc / (len(x) - 1), zc.T @ zc / (len(x) - 1)


def shrunk(x):
    """Optimal linear shrinkage towards the unit matrix of equal trace (arXiv 1308.2608), entry by entry."""
    n, d = x.shape
    sample = (x - x.mean(0)).T @ (x - x.mean(0)) / n
    target = torch.eye(d, dtype=x.dtype) * sample.trace() / d
    s2, t2, st = (sample**2).sum(), (target**2).sum(), (sample * target).sum()
    a = 1 - (sample.trace() ** 2 * t2 / n) / (s2 * t2 - st**2)
    return a * sample + (1 - a) * st / t2 * target


def power(matrix, exponent):
    values, vectors = torch.linalg.eigh(matrix)
    live = values > values.max() * len(values) * torch.finfo(values.dtype).eps
    return vectors @ torch.diag(torch.where(live, values.clamp_min(1e-300) ** exponent, 0.0)) @ vectors.T


def projector(x, z, shrinkage=True, tolerance=0.01, constrain=False, whiten=True):
    """``P`` [d, d] of ``r(x) = mu + P (x - mu)``."""
    d = x.shape[1]
    unit = torch.eye(d, dtype=x.dtype)
    sigma, cross, _ = covariances(x, z)
    sigma = shrunk(x) if shrinkage else sigma
    w, back = (power(sigma, -0.5), power(sigma, 0.5)) if whiten else (unit, unit)
    left, values, _ = torch.linalg.svd(w @ cross, full_matrices=False)
    left = left[:, values > tolerance]
    p, q = unit - back @ left @ left.T @ w, unit - left @ left.T
    old = sigma.trace()

    def variance(a):
        mixed = a * p + (1 - a) * q
        return (mixed @ sigma @ mixed.T).trace()

    if not constrain or variance(1.0) <= old:
        return p
    low, high = 0.0, 1.0  # bisection for the mixture whose variance is that of before
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if variance(middle) < old else (low, middle)
    return low * p + (1 - low) * q


def oracle(x, z, labels):
    """``x - Sigma_xz Sigma_zz^+ (z - mu_z)``."""
    _, cross, zz = covariances(x, z)
    return x - (labels - z.mean(0)) @ torch.linalg.pinv(zz) @ cross.T
