"""The formula of a map, ``x + g D (Y x)``, written out row by row beside what the U-Net receives in a graph.

The arithmetic is plain loops in float64 over the rows that the erasures were asked for, solved here once more, together
as Apply does for a list; none of the pack's code is used for it.
"""

import comfy.patcher_extension
import graph
import tiny
import torch

PLACE = comfy.patcher_extension.WrappersMP.DIFFUSION_MODEL


def mapped(row, down, up, gain):
    """One vector [d]: ``x + sum_i gain D[:, i] (Y[i] . x)``."""
    result = row.double().clone()
    for i in range(len(down)):
        inner = (down[i].double() * row.double()).sum()
        result += gain * inner * up[:, i].double()
    return result


def by_hand(rows, terms, gains):
    """Rows [B, T, d] under ``terms`` [(Y, D)] with ``gains`` [B][terms]; every vector by itself, the changes added."""
    result = torch.empty_like(rows, dtype=torch.float64)
    for b in range(len(rows)):
        for t in range(rows.shape[1]):
            change = torch.zeros(rows.shape[2], dtype=torch.float64)
            for (down, up), gain in zip(terms, gains[b], strict=True):
                change += mapped(rows[b, t], down, up, gain) - rows[b, t].double()
            result[b, t] = rows[b, t].double() + change
    return result


def seen(model, positive, negative):
    """What enters the U-Net in the first call: text, label, and which list each chunk is from."""
    calls = []

    def look(executor, x, timesteps, context, y=None, control=None, transformer_options=None, **kwargs):
        which = [i for i in transformer_options["cond_or_uncond"] for _ in range(len(x) // 2)]
        calls.append((context.clone(), None if y is None else y.clone(), which))
        return executor(x, timesteps, context, y, control, transformer_options, **kwargs)

    spied = model.clone()
    spied.add_wrapper_with_key(PLACE, "last", look)  # the last one added is the innermost
    graph.predictions(spied, positive, negative, sigmas=(3.0,))
    return calls[0]


def factors(membranes, space):
    """(Y, D) of each, from one solve over the rows of all: ``D = w (a - c)``, ``Y = c M^-1``, M from every row."""
    problems = [membrane.erasure.statistics[space] for membrane in membranes]
    rows, kept = [problem.rows for problem in problems], {}
    for own in rows:
        for row, weight in zip(own.preserve, own.omega_preserve.tolist(), strict=True):
            kept[tuple(row.tolist())] = max(weight, kept.get(tuple(row.tolist()), 0.0))
    count = sum(len(own.erase) for own in rows)
    ridge = sum(problem.effective_ridge * len(own.erase) for problem, own in zip(problems, rows, strict=True)) / count
    matrix = ridge * torch.eye(rows[0].erase.shape[1], dtype=torch.float64)
    for own in rows:
        for row, weight in zip(own.erase, own.omega, strict=True):
            matrix += weight * torch.outer(row, row)
    for row, weight in kept.items():
        matrix += weight * torch.outer(*[torch.tensor(row, dtype=torch.float64)] * 2)
    inverse = torch.linalg.inv(matrix)
    return [(own.erase @ inverse, (own.omega[:, None] * (own.anchors - own.erase)).T) for own in rows]


def compare(family, rows):
    """Relative differences of text and label from the formula, and how much they were changed."""
    model, clip = tiny.unet(family), tiny.text_encoder(family)
    some = [
        *graph.membranes(model, clip, strength=0.37),
        *graph.membranes(model, clip, "heart -> star", strength=-1.5),
        *graph.membranes(model, clip, "moon -> ring", strength=1.0, gate="words"),
    ]
    positive, negative = graph.text(clip, "a red circle and a heart"), graph.text(clip, "a blue moon")
    before, label, which = seen(model, positive, negative)
    after, label_after, _ = seen(graph.apply(model, clip, some, rows)[0], *stamped(model, clip, some))
    # the positive prompt names no moon; the negative one does, and is spared unless all rows are meant
    gains = [[0.37, -1.5, 0.0] if i == 0 else [0.37, -1.5, 1.0] if rows == "all" else [0.0] * 3 for i in which]
    spaces = [space for space in some[0].erasure.maps if space != "sdxl_pooled"]
    some_rows = slice(0, None, 5)  # of the text; loops are slow
    expected = by_hand(before[:, some_rows], factors(some, spaces[0]), gains)
    found = {"text": graph.difference(after[:, some_rows], expected), "changed": graph.difference(after, before)}
    found["spared rows are bitwise"] = all(
        graph.same(after[b], before[b]) for b, row in enumerate(gains) if not any(row)
    )
    if label is not None:
        width = some[0].erasure.maps["sdxl_pooled"].width
        terms = factors(some, "sdxl_pooled")
        vector = by_hand(label[:, None, :width], terms, gains)[:, 0]
        found["label"] = graph.difference(label_after[:, :width], vector)
        found["label changed"] = graph.difference(label_after[:, :width], label[:, :width])
        found["sizes are bitwise"] = graph.same(label_after[:, width:], label[:, width:])
    return found


def stamped(model, clip, some):
    """The prompts encoded by the CLIP that Apply Membranes gives back."""
    encoder = graph.apply(model, clip, some)[1]
    return graph.text(encoder, "a red circle and a heart"), graph.text(encoder, "a blue moon")


def main():
    return {f"{family} {rows}": compare(family, rows) for family in ("sd1", "sdxl") for rows in ("cond", "all")}
