"""What the host says of a LoRA's keys that it has no place for."""

import logging


class Ear(logging.Handler):
    """Collects warnings of the root logger, where the host puts them."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.heard = []
        logging.getLogger().addHandler(self)

    def emit(self, record):
        self.heard.append(record.getMessage())
