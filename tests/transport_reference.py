"""Facilitated transport of SPM (arXiv 2312.16145) as its code computes it, one number after the other."""

import math


def cosine(one, other):
    """Of two [77, d] states, flattened."""
    a = [float(v) for row in one for v in row]
    b = [float(v) for row in other for v in row]
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b)))


def share(concept, prompt, special):
    """Unique tokens of the concept that the prompt has, without special ones."""
    wanted = set(concept) - special
    return sum(token in set(prompt) - special for token in wanted) / len(wanted)


def gamma(text, prompt, concepts, metric, factor):
    """``text``: tokenizer and encoder; the largest over the concepts, times the facilitate factor."""
    if metric == "allone":
        return factor
    special = set(text.frame([]))
    found = []
    for concept in concepts:
        if "clipcos" in metric:
            found.append(cosine(text.rows(concept).tolist(), text.rows(prompt).tolist()))
        if "tokenuni" in metric:
            found.append(share(text.ids(concept), text.ids(prompt), special))
    return factor * max(found)
