"""SPEED (arXiv 2503.07392) as paper and official code write it, one matrix at a time; imports nothing of the core."""

import torch


def last_rows(plain, texts):
    """Last word's token of each text, float64 in the encoder's own precision; the start token of a blank text."""
    return torch.stack([plain.rows(text)[plain.last(text)].double() for text in texts])


def body_rows(plain, text):
    """Every row but the start token's."""
    return plain.rows(text)[1:].double()


def shift(rows, weight, concepts, anchors):
    """Outputs' change of each row under the edit without any constraint (paper, section 3.2; ridge 1 in the code)."""
    n = len(concepts)
    gram = sum(torch.outer(c, c) for c in concepts) / n
    pull = sum(torch.outer(a - c, c) for c, a in zip(concepts, anchors, strict=True)) / n
    edit = weight @ pull @ torch.linalg.inv(torch.eye(len(gram), dtype=gram.dtype) + gram)
    return torch.stack([(edit @ row).norm() for row in rows])


def weakest(weight):
    """Right singular vector of the smallest singular value of the thin decomposition, largest entry positive."""
    v = torch.linalg.svd(weight, full_matrices=False).Vh[-1]
    return v if v[v.abs().argmax()] > 0 else -v


def far(rows, *edit):
    """Rows that are shifted as far as the mean or farther."""
    moved = shift(rows, *edit)
    return rows[moved >= moved.mean()]


def refined(retained, weight, concepts, anchors, copies=10, seed=0, layer=0, keep_all=False):
    """Prior filtering, then drawn copies along the weakest direction, filtered in chunks of 128."""
    edit = weight, concepts, anchors
    kept = retained if keep_all else far(retained, *edit)
    direction = weakest(weight)
    generator = torch.Generator().manual_seed(seed + layer)
    drawn = []
    steps = torch.randn(len(kept) * copies, generator=generator, dtype=torch.float64).to(weight.dtype)
    for i, step in enumerate(steps):
        drawn.append(kept[i // copies] + step * direction)
    passed = [far(torch.stack(drawn[i : i + 128]), *edit) for i in range(0, len(drawn), 128)]
    return torch.cat([kept, *passed])


def projector(rows, threshold):
    """On the singular vectors of the mean outer product with singular values below the threshold."""
    width = rows.shape[1]
    total = torch.zeros(width, width, dtype=rows.dtype)
    for row in rows:
        total += torch.outer(row, row)
    u, s, _ = torch.linalg.svd(total / len(rows))
    basis = u[:, s < threshold]
    return basis @ basis.T


def centres(rows, count):
    """k-means by farthest-point starts."""
    points = torch.unique(rows, dim=0)
    starts = [max(range(len(points)), key=lambda i: (points[i] - points.mean(0)).norm().item())]
    while len(starts) < count:
        starts.append(max(range(len(points)), key=lambda i: min((points[i] - points[j]).norm().item() for j in starts)))
    found = points[starts]
    for _ in range(100):
        owner = [min(range(count), key=lambda j: (row - found[j]).norm().item()) for row in rows]
        new = torch.stack([
            torch.stack([row for row, o in zip(rows, owner, strict=True) if o == j]).mean(0) for j in range(count)
        ])  # fmt: skip
        if torch.equal(new, found):
            break
        found = new
    return found


def invariants(plain, count=3):
    """The start token and the centres of the rest of the empty prompt."""
    empty = plain.rows("").double()
    return torch.cat([empty[:1], centres(empty[1:], count)])


def change(weight, concepts, anchors, project, constant, rho=1.0, lamb=0.0):
    """The edit of one matrix, with the explicit inverses of the code: W E P [I - M K (K'PMK + lamb I)^-1 K'P] M."""
    width, n = weight.shape[1], len(concepts)
    one = torch.eye(width, dtype=weight.dtype)
    gram = sum(torch.outer(c, c) for c in concepts) / n
    pull = sum(torch.outer(a - c, c) for c, a in zip(concepts, anchors, strict=True)) / n
    m = torch.linalg.inv(gram @ project + rho * one)
    k = constant.T
    inner = torch.linalg.inv(k.T @ project @ m @ k + lamb * torch.eye(k.shape[1], dtype=weight.dtype))
    return weight @ pull @ project @ (one - m @ k @ inner @ k.T @ project) @ m
