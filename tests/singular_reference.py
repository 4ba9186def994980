"""The projector of a singular map as its formulas stand, in loops and with plain inverses; imports nothing of the core.

D Omega D^T v = mu N v, N = sum over what stays of w x x^T + ridge (tr S / d) S^-1, S = sum of W^T W.
"""

import numpy as np
import rece_reference


def metric(weights):
    """S [d, d] of all matrices."""
    total = 0
    for weight in weights:
        total = total + weight.double().numpy().T @ weight.double().numpy()
    return total


def spread(staying, s, ridge):
    """N [d, d]; ``staying``: pairs of row and weight."""
    n = ridge * np.trace(s) / len(s) * np.linalg.inv(s)
    for row, weight in staying:
        n = n + weight * np.outer(row, row)
    return n


def directions(moves, n, k):
    """V [k, d]: the k largest solutions for ``moves``, rows a - c of weight 1."""
    m = 0
    for move in moves:
        m = m + np.outer(move, move)
    values, vectors = np.linalg.eig(np.linalg.inv(n) @ m)
    return vectors.real[:, np.argsort(-values.real)[:k]].T


def projector(v, n):
    """I - N V^T (V N V^T)^-1 V."""
    return np.eye(len(n)) - n @ v.T @ np.linalg.inv(v @ n @ v.T) @ v


def nearest(c, v, s):
    """The point of the plane V x = 0 nearest to ``c`` in the metric S."""
    inverse = np.linalg.inv(s)
    return c - inverse @ v.T @ np.linalg.inv(v @ inverse @ v.T) @ v @ c


def derived(rows, weights, t, share):
    """RECE's texts for ``rows`` [n, d] against the matrices W T, r = ``share`` of the mean eigenvalue of S."""
    original = [weight.double() for weight in weights]
    reg = share * sum(float(w.square().sum()) for w in original) / len(t)
    return rece_reference.derived([w @ t for w in original], original, rows.double(), reg)
