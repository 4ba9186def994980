"""TRCE's first stage (arXiv 2503.07389) as published, one matrix at a time; imports nothing of the core."""

import torch


def counted(plain, text):
    """The row that the official code takes for the end of the text: it counts words, not tokens."""
    return plain.rows(text)[len(text.split()) + 1].double()


def end(plain, text):
    """The end-of-text row."""
    return plain.rows(text)[len(plain.content(text)) + 1].double()


def edit(weight, pairs, kept, eta, ridge):
    """``W'`` from sums over prompts (their mean) and kept rows, and one explicit inverse."""
    width = weight.shape[1]
    left = ridge * weight
    right = ridge * torch.eye(width, dtype=weight.dtype)
    for source, goal in pairs:
        left = left + torch.outer(weight @ goal, source) / len(pairs)
        right = right + torch.outer(source, source) / len(pairs)
    for row in kept:
        left = left + eta * torch.outer(weight @ row, row)
        right = right + eta * torch.outer(row, row)
    return left @ torch.linalg.inv(right)


def least_ridge(pairs, kept, eta):
    """A millionth of the mean eigenvalue: what stands in for no ridge at all."""
    trace = sum(source @ source for source, _ in pairs) / len(pairs) + eta * sum((row @ row for row in kept), 0.0)
    return float(1e-6 * trace / len(pairs[0][0]))
