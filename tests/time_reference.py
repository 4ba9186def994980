"""TIME's pairing of tokens and rows as its script does it; imports nothing of the core. The edit is UCE's reference."""


def pairing(plain, old, new):
    """For each of the 77 rows of ``old`` the row of ``new``: same words in order, then padding after padding."""
    before, after = ([("a" if t == "an" else t) for t in words(plain, text)] for text in (old, new))
    found, j = [], 0
    for token in before:
        while after[j] != token:
            j += 1
        found.append(j)
        j += 1
    while j < 77:
        found.append(j)
        j += 1
    return (found + [76] * 77)[:77]


def words(plain, text):
    ids = plain.tokenizer(text)["input_ids"]
    return [plain.tokenizer.decode([i]).strip() for i in ids]


def rows(plain, pairs):
    """Pairs of sequences [77, d]."""
    return [(plain.rows(old).double(), plain.rows(new)[pairing(plain, old, new)].double()) for old, new in pairs]


def augmented(old, new):
    """The three further sentences of the script."""
    return [(old, new)] + [
        (start + " of " + old, start + " of " + new) for start in ("A photo", "An image", "A picture")
    ]
