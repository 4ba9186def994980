"""One line of the concept text, taken apart and put together: ``target | alias -> anchor @ 1.5  # comment``.

Knows characters and columns, not concepts. Columns count from 1, in characters of the line as the user sees it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .errors import BadInput

KINDS = ("object", "character", "person", "style", "safety")
"""Kinds of concepts; a line may begin with one and a colon."""

_LINE_END = re.compile("\r\n|[\r\n\x85\u2028\u2029]")
_BULLET = re.compile(r"\s*[-*•]\s+(?=\S)")
_PLUS = re.compile(r"\s*\+")
_KIND = re.compile(rf"\s*({'|'.join(KINDS)})\s*:", re.IGNORECASE)
_ARROW = re.compile("->|=>|–>|—>|→|⇒|⟶|➜")  # editors turn -> into some of these
_SPECIAL = frozenset("|@#\\-=–—→⇒⟶➜")
_QUOTES = {'"': '"', "“": "“”", "”": "“”", "„": "“”"}  # typographic quotes as phones and word processors make them
_ESCAPABLE = frozenset("()[]{}<>|@#+\"'\\-=:*")
# Full-width forms of ASCII (Unicode block FF00) and the ideographic space, one character for one.
_NARROW = {0xFF01 + i: 0x21 + i for i in range(0x5E)} | {0x3000: 0x20}


@dataclass(frozen=True)
class Phrase:
    """A phrase and the column it starts at."""

    text: str
    column: int


@dataclass(frozen=True)
class Line:
    """What one line says, not yet checked: ``anchors`` holds every phrase that followed an arrow."""

    keep: bool
    kind: str | None
    targets: tuple[Phrase, ...]
    anchors: tuple[Phrase, ...]
    weights: tuple[Phrase, ...]


def at(line: int, column: int, sentence: object) -> BadInput:
    """The error with its place in front of the sentence."""
    return BadInput(f"Line {line}, column {column}: {sentence}")


def split_lines(text: str) -> list[str]:
    """Lines of a text with Windows, Unix or old Macintosh ends, byte order mark removed."""
    return _LINE_END.split(text.removeprefix("\ufeff"))


def read_line(raw: str, number: int = 1) -> Line | None:
    """Take line ``number`` apart; None for a blank or comment line. Raises :class:`BadInput` for an open quote."""
    folded = raw.translate(_NARROW)
    bullet = _BULLET.match(folded)
    start = bullet.end() if bullet else 0
    plus = _PLUS.match(folded, start)
    kind = None if plus else _KIND.match(folded, start)
    begun = plus or kind
    scanner = _Scanner(raw, begun.end() if begun else start, number)
    parts: dict[str, list[Phrase]] = {"": [], "->": [], "@": []}
    mark: str | None = ""
    last = ""
    while mark is not None:
        last = last if mark == "|" else mark
        parts[last].append(scanner.phrase())
        mark = scanner.separator()
    if not begun and not scanner.saw_syntax and not parts[""][0].text:
        return None
    targets, anchors, weights = (tuple(parts[mark]) for mark in ("", "->", "@"))
    return Line(bool(plus), kind.group(1).lower() if kind else None, targets, anchors, weights)


def write_phrase(phrase: str) -> str:
    """The phrase as it must stand in a line: bare where that reads back the same, else in double quotes."""
    try:
        bare = read_line(f"{phrase} |")  # with what may follow: "- |" would be a bullet
    except BadInput:
        bare = None
    if bare is not None and not bare.keep and bare.kind is None and bare.targets[:-1] == (Phrase(phrase, 1),):
        return phrase
    escaped = phrase.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class _Scanner:
    """Reads phrases and separators from left to right."""

    def __init__(self, raw: str, position: int, number: int) -> None:
        self.raw = raw
        self.folded = raw.translate(_NARROW)
        self.position = position
        self.number = number
        self.saw_syntax = False

    def phrase(self) -> Phrase:
        """Everything up to the next separator, comment or line end; position moves there."""
        while self.position < len(self.raw) and self.folded[self.position].isspace():
            self.position += 1
        column = self.position + 1
        if self.position < len(self.raw) and self.raw[self.position] in _QUOTES:
            self.saw_syntax = True
            return Phrase(self._quoted(), column)
        return Phrase(self._bare(), column)

    def separator(self) -> str | None:
        """``|``, ``->`` or ``@`` at the position, passed over; None at a comment or the end."""
        if self.position >= len(self.raw) or self._at_comment():
            return None
        self.saw_syntax = True
        arrow = _ARROW.match(self.folded, self.position)
        if arrow:
            self.position = arrow.end()
            return "->"
        self.position += 1
        return self.folded[self.position - 1]

    def _quoted(self) -> str:
        opened, closers = self.position, _QUOTES[self.raw[self.position]]
        text: list[str] = []
        i = opened + 1
        while i < len(self.raw) and self.raw[i] not in closers:
            if self.raw[i] == "\\" and i + 1 < len(self.raw) and self.raw[i + 1] in closers + "\\":
                i += 1
            text.append(self.raw[i])
            i += 1
        if i >= len(self.raw):
            raise at(
                self.number,
                opened + 1,
                'this quote is never closed. Close it: "van gogh | artist", and write a quote inside quotes as \\".',
            )
        self.position = i + 1
        rest = self.position
        trailing = self._bare()
        if trailing:
            raise at(
                self.number,
                rest + 1,
                f"{trailing!r} follows a closing quote. Put the whole phrase inside the quotes, or | between phrases.",
            )
        return "".join(text)

    def _bare(self) -> str:
        text: list[str] = []
        while self.position < len(self.raw):
            char = self.folded[self.position]
            if char in _SPECIAL:
                if char == "\\" and self.folded[self.position + 1 : self.position + 2] in _ESCAPABLE:
                    self.position += 1
                    char = self.folded[self.position]
                elif char in "|@" or self._at_comment() or _ARROW.match(self.folded, self.position):
                    break
            text.append(char)
            self.position += 1
        return "".join(text).strip()

    def _at_comment(self) -> bool:
        i = self.position
        return self.folded[i] == "#" and (i == 0 or self.folded[i - 1].isspace())
