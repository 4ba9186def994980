"""Reference for encoding: a tokenizer and a text encoder of transformers called directly, one chunk at a time."""

import torch

BOS, EOS = 49406, 49407
LENGTH = 77


class PlainText:
    """Ids and rows of plain prompts (no brackets), as the pipelines' own libraries make them."""

    def __init__(self, tokenizer, encoder, pad=EOS):
        self.tokenizer, self.encoder, self.pad = tokenizer, encoder, pad

    def content(self, text):
        """Token ids without start and end."""
        return self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    def ids(self, text):
        """77 ids of a prompt that fits."""
        return self.frame(self.content(text))

    def frame(self, content):
        """Start, content, end and padding."""
        assert len(content) <= LENGTH - 2
        return [BOS, *content, EOS] + [self.pad] * (LENGTH - 2 - len(content))

    @torch.no_grad()
    def encode(self, ids):
        """Rows [77, d] of one chunk after the last layer and its norm."""
        return self.encoder(torch.tensor([ids])).last_hidden_state[0].float()

    def rows(self, text):
        """Rows [77, d] of a prompt that fits."""
        return self.encode(self.ids(text))

    def last(self, text):
        """Position of the last word's token; 0, the start token, for an empty text."""
        return len(self.content(text))
