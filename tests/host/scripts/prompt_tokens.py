"""The host's own reading of prompts: stretches with weights, and chunks of tokens."""

from comfy.sd1_clip import SDTokenizer, escape_important, token_weights, unescape_important


def main(prompts):
    kinds = {"eos": SDTokenizer(), "zero": SDTokenizer(pad_with_end=False)}
    result = []
    for prompt in prompts:
        spans = [(unescape_important(text), weight) for text, weight in token_weights(escape_important(prompt), 1.0)]
        result.append([spans, {name: kind.tokenize_with_weights(prompt) for name, kind in kinds.items()}])
    return result
