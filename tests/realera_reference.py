"""RealEra's closed form (arXiv 2410.09140) with exact expectations, matrix by matrix; imports nothing of the core."""

import torch


def second_moment(row, low, high):
    """E[x x^T] of x at cosines uniform in [low, high] from ``row``, as long as it, all directions around it alike."""
    unit = row / row.norm()
    square = (high**3 - low**3) / (3 * (high - low))
    along = torch.outer(unit, unit)
    return row.norm() ** 2 * (square * along + (1 - square) * (torch.eye(len(row)) - along) / (len(row) - 1))


def drawn(row, low, high, count, seed=0):
    """Such x, drawn."""
    generator = torch.Generator().manual_seed(seed)
    unit = row / row.norm()
    cosine = low + (high - low) * torch.rand(count, 1, generator=generator, dtype=row.dtype)
    side = torch.randn(count, len(row), generator=generator, dtype=row.dtype)
    side = side - (side @ unit)[:, None] * unit
    side = side / side.norm(dim=1, keepdim=True)
    return row.norm() * (cosine * unit + (1 - cosine**2).sqrt() * side)


def edit(weight, pairs, kept, ridge, low=0.5, high=0.9, neighbour=1.0, beyond=1.0, keep=1.0):
    """``W'``: sums of the concept, its neighbours' expectation, the expectation beyond, kept rows; explicit inverse."""
    left, right = ridge * weight, ridge * torch.eye(weight.shape[1], dtype=weight.dtype)
    for source, goal in pairs:
        out = weight @ goal
        left = left + torch.outer(out, source) + neighbour * torch.outer(out, (low + high) / 2 * source)
        right = right + torch.outer(source, source) + neighbour * second_moment(source, low, high)
        outside = beyond * second_moment(source, 0.0, low)
        left, right = left + weight @ outside, right + outside
    for row in kept:
        left, right = left + keep * torch.outer(weight @ row, row), right + keep * torch.outer(row, row)
    return left @ torch.linalg.inv(right)
