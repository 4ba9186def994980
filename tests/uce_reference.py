"""UCE as its two published scripts do it, one matrix at a time, in float64; imports nothing of the core."""

import torch

STYLE = ("painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}")
OBJECT = ("image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}")


def expand(concept, guide, templates):
    """The concept by itself and in each sentence; the guide stays bare in both scripts."""
    return [(concept, guide)] + [(t.format(concept), guide) for t in templates]


def last_index(plain, text):
    """``attention_mask.sum() - 2``: the last word's token, or the start token of an empty text."""
    encoded = plain.tokenizer(text, padding="max_length", max_length=77, truncation=True)
    return sum(encoded["attention_mask"]) - 2


def rows_2025(plain, pairs):
    """Last subject token of each phrase: a list of pairs of sequences [1, d]."""
    found = []
    for old, new in pairs:
        i, j = last_index(plain, old), last_index(plain, new)
        found.append((plain.rows(old)[i : i + 1].double(), plain.rows(new)[j : j + 1].double()))
    return found


def rows_2023(plain, pairs):
    """Last subject token to the end, both sides cut to the same length: pairs of sequences [n, d]."""
    found = []
    for old, new in pairs:
        i, j = last_index(plain, old), last_index(plain, new)
        farthest = max(i, j)
        length = 77 - farthest
        found.append((plain.rows(old)[i : i + length].double(), plain.rows(new)[j : j + length].double()))
    return found


def preserved_2025(plain, prompts):
    """Last token of each prompt."""
    return [plain.rows(text)[last_index(plain, text)].double() for text in prompts]


def preserved_2023(plain, prompts):
    """All 77 rows of the empty prompt and of each prompt."""
    return [row.double() for text in ("", *prompts) for row in plain.rows(text)]


def replace_targets(weight, source, anchor):
    """Outputs of the anchor."""
    return anchor @ weight.T


def tensor_targets(weight, source, anchor):
    """Outputs of the anchor without their component along the concept's, over the whole sequence."""
    old, new = source @ weight.T, anchor @ weight.T
    direction = old / old.norm()
    return new - (direction * new).sum() * direction


def edit(
    weight,
    sequences,
    preserved,
    lamb=0.5,
    erase_scale=1.0,
    preserve_scale=1.0,
    targets=replace_targets,
    dtype=torch.float64,
):
    """``W'`` of one matrix: sums over every row, one inverse. ``erase_scale`` may be a list, one per sequence."""
    weight = weight.to(dtype)
    scales = erase_scale if isinstance(erase_scale, list) else [erase_scale] * len(sequences)
    left = lamb * weight
    right = lamb * torch.eye(weight.shape[1], dtype=dtype)
    for (source, anchor), scale in zip(sequences, scales, strict=True):
        source, anchor = source.to(dtype), anchor.to(dtype)
        goal = targets(weight, source, anchor)
        for c, v in zip(source, goal, strict=True):
            left = left + scale * torch.outer(v, c)
            right = right + scale * torch.outer(c, c)
    for p in preserved:
        p = p.to(dtype)
        left = left + preserve_scale * torch.outer(weight @ p, p)
        right = right + preserve_scale * torch.outer(p, p)
    return left @ torch.linalg.inv(right)
