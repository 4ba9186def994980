"""MACE's refinement and fusion in per-layer loops, in float64; imports nothing of the core."""

import torch


def surroundings(plain, old, new):
    """Rows around the words that differ: two sequences of one length (common begin, common end, then padding)."""
    before, after = (plain.tokenizer(text)["input_ids"] for text in (old, new))
    begin = 0
    while begin < min(len(before), len(after)) and before[begin] == after[begin]:
        begin += 1
    i, j = len(before), len(after)
    while i > begin and j > begin and before[i - 1] == after[j - 1]:
        i, j = i - 1, j - 1
    count = 77 - max(i, j)
    left, right = [*range(begin), *range(i, i + count)], [*range(begin), *range(j, j + count)]
    return plain.rows(old)[left].double(), plain.rows(new)[right].double()


def pairs(plain, concept, anchor, templates):
    return [surroundings(plain, t.replace("{}", concept), t.replace("{}", anchor)) for t in templates]


def caches(weight, rows):
    """The two sums that MACE keeps for every matrix: W e e^T and e e^T."""
    first = torch.zeros(len(weight), weight.shape[1], dtype=rows.dtype)
    second = torch.zeros(weight.shape[1], weight.shape[1], dtype=rows.dtype)
    for e in rows:
        first = first + torch.outer(weight @ e, e)
        second = second + torch.outer(e, e)
    return first, second


def refine(weight, sequences, kept, lamb, scale, dtype=torch.float64):
    """``W'`` of one matrix; ``kept`` rows [p, d] count with ``scale``."""
    weight = weight.to(dtype)
    left, right = lamb * weight, lamb * torch.eye(weight.shape[1], dtype=dtype)
    for source, anchor in sequences:
        source, anchor = source.to(dtype), anchor.to(dtype)
        left = left + (anchor @ weight.T).T @ source
        right = right + source.T @ source
    first, second = caches(weight, kept.to(dtype))
    return (left + scale * first) @ torch.linalg.inv(right + scale * second)


def fuse(weight, refined, changes, rows, kept, lamb, scale):
    """``W*`` of one matrix: teachers ``refined + change`` on their rows, the original ``weight`` on the kept ones."""
    weight, refined = weight.double(), refined.double()
    left, right = lamb * refined, lamb * torch.eye(weight.shape[1], dtype=torch.float64)
    for change, mine in zip(changes, rows, strict=True):
        for e in mine:
            left = left + torch.outer((refined + change) @ e, e)
            right = right + torch.outer(e, e)
    first, second = caches(weight, kept)
    return (left + scale * first) @ torch.linalg.inv(right + scale * second)
