"""Errors a user can act on: each message says what happened, the likely cause and what to do.

Copies of this package can live in one process (standalone and inside a host), so callers across that
boundary must look at ``error.code``, never at the class.
"""


class MembraneError(Exception):
    """Base of every error this package raises for a user's mistake or an unusable input."""

    code = "membrane"


class BadInput(MembraneError):
    """A prompt, concept, option or argument cannot be used as given."""

    code = "bad_input"


class UnknownFormat(MembraneError):
    """A file is not one of the formats that can be read, or it is damaged."""

    code = "unknown_format"


class WrongFamily(MembraneError):
    """The erasure belongs to another model architecture."""

    code = "wrong_family"


class WrongBase(MembraneError):
    """Right architecture, but another text encoder or another checkpoint."""

    code = "wrong_base"


class NothingMatched(MembraneError):
    """None of the erasure's entries has a counterpart in the model."""

    code = "nothing_matched"


class IllConditioned(MembraneError):
    """The linear system has no trustworthy solution (NaN, infinite or singular input)."""

    code = "ill_conditioned"


class CannotWrite(MembraneError):
    """A file could not be written; whatever was there before is untouched."""

    code = "cannot_write"


class Interrupted(MembraneError):
    """The user stopped the work."""

    code = "interrupted"
