"""Text-space methods as the papers print them, in plain float64 loops; nothing of the core is used."""

import math

import numpy as np


def projector(vectors):
    """``C (C^T C)^+ C^T`` for vectors [K, D] as columns of C."""
    columns = np.asarray(vectors, dtype=float).T
    return columns @ np.linalg.pinv(columns.T @ columns) @ columns.T


def safree(rows, end, concept, masked, alpha):
    """Rows [T, D] of one prompt whose words are 1..end-1; ``masked`` [n, D] are the vectors without each word."""
    rows = np.asarray(rows, dtype=float)
    away = np.eye(rows.shape[1]) - projector(concept)
    inside = projector(masked)
    distance = [math.sqrt(sum(x * x for x in away @ vector)) for vector in np.asarray(masked, dtype=float)]
    result = rows.copy()
    found = []
    for i in range(len(distance)):
        others = [d for j, d in enumerate(distance) if j != i]
        if distance[i] > (1 + alpha) * sum(others) / len(others):
            found.append(i)
            result[1 + i] = away @ (inside @ rows[1 + i])
    return result, found


def beta(before, after, end):
    """1 - mean cosine over the tokens that are no padding."""
    total = 0.0
    for old, new in zip(np.asarray(before)[: end + 1], np.asarray(after)[: end + 1], strict=True):
        total += float(old @ new) / math.sqrt(float(old @ old) * float(new @ new))
    return 1 - total / (end + 1)


def part_of_run(value, gamma, k, t0):
    """gamma sigmoid(2 k (10 beta - t0))."""
    return gamma / (1 + math.exp(-2 * k * (10 * value - t0)))


def objective(v, dictionary, weights, lam, tau):
    """|v - D w|^2 + lam (tau |w|_1 + (1 - tau) |w|^2 / 2), v and the atoms brought to length 1."""
    v = np.asarray(v, dtype=float)
    size = math.sqrt(float(v @ v))
    rest = v / size
    cost = 0.0
    for w, atom in zip(weights, np.asarray(dictionary, dtype=float), strict=True):
        length = math.sqrt(float(atom @ atom))
        unit_weight = w * length / size
        rest = rest - unit_weight * atom / length
        cost += lam * (tau * abs(unit_weight) + (1 - tau) * unit_weight**2 / 2)
    return float(rest @ rest) + cost


def leace(x, z):
    """The eraser r(x) = x - W^+ P W (x - mu) as a matrix and the mean, for full-rank data without shrinkage."""
    x, z = np.asarray(x, dtype=float), np.asarray(z, dtype=float)
    mu = x.mean(0)
    sigma = (x - mu).T @ (x - mu) / (len(x) - 1)
    cross = (x - mu).T @ (z - z.mean(0)) / (len(x) - 1)
    values, vectors = np.linalg.eigh(sigma)
    w = vectors @ np.diag(values**-0.5) @ vectors.T
    p = projector((w @ cross).T)
    return np.eye(len(mu)) - np.linalg.inv(w) @ p @ w, mu
