"""Published objectives of trained erasures in plain float64 loops; nothing of the core is imported.

``e`` and ``s`` give the frozen and the trained model's prediction for a text by role, at one latent.
"""


def mean_square(a, b):
    return float(((a - b) ** 2).mean())


def slider(e, s, eta):
    """Concept Sliders, arXiv 2311.12092: away from the positive text for eta > 0, toward it below."""
    goal = e("neutral") - eta * (e("positive") - e("unconditional"))
    return mean_square(s("concept"), goal), 0.0


def ace(e, s, words, gammas, eta_c, eta_u, eta_p, prior, null):
    """ACE, arXiv 2501.01633, with the three weights as its code makes them of two."""
    empty, concept = e("empty"), e("concept")
    goal_concept = empty - eta_c * (concept - empty)
    goal_empty = empty + eta_u * (concept - empty)
    for word, gamma in zip(words, gammas, strict=True):
        goal_empty = goal_empty - eta_p * gamma * (e(word) - empty)
    kept = sum(mean_square(s(word), e(word)) for word in words) / len(words)
    erasing = (1 - prior) * null * mean_square(s("empty"), goal_empty)
    erasing += (1 - prior) * (1 - null) * mean_square(s("concept"), goal_concept)
    return erasing, prior * kept


def sdd(s, goal="empty"):
    """SDD, arXiv 2307.05977: toward the trained model's own unconditional prediction."""
    return mean_square(s("concept"), s(goal)), 0.0


def ablating(s, noise, target, prior):
    """Ablating Concepts, arXiv 2303.13516: current weights at the anchor's text, or the true noise."""
    goal = s("anchor") if target == "model" else noise
    return mean_square(s("concept"), goal), prior * mean_square(s("anchor"), noise)


def ant(e, s, early, eta, alpha1, alpha2, beta):
    """ANT, arXiv 2504.12782, as the paper has it."""
    if early:
        kept = mean_square(s("concept"), e("concept")) + alpha2 * mean_square(s("empty"), e("empty"))
        return 0.0, beta * kept
    reversed_ = e("empty") - eta * (e("concept") - e("empty"))
    return mean_square(s("concept"), reversed_), alpha1 * mean_square(s("empty"), e("empty"))
