"""Make characters visible that show nothing, or that control how text is shown.

Names, prompts, tokens, errors and server replies are strangers' text. In a terminal an escape
sequence can clear the screen or rename the window (C0 and C1 controls); anywhere, a
direction override can make one text read as another, and zero-width or tag characters can
hide a text in a text. What a writing system needs stays: joiners inside emoji and inside Arabic
or Indic words, variation selectors after what they vary, line breaks and tabs.
"""

from __future__ import annotations

import logging
import re
import unicodedata
from collections.abc import Callable, Iterator

_PLAIN = re.compile(r"[\n\t -~]*")
_JOINERS = "\u200c\u200d"
# Format characters with a shape of their own: signs before a number, a year or a verse.
_SHOWN_FORMATS = frozenset("\u0600\u0601\u0602\u0603\u0604\u0605\u06dd\u070f\u0890\u0891\u08e2\U000110bd\U000110cd")
# Letters and marks that are drawn as nothing.
_BLANKS = frozenset("\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u3164\uffa0")
_KEYCAP = "\u20e3"
# The flags of England, Scotland and Wales: a black flag, the region in tag characters, a last tag.
_REGIONS = ["".join(chr(0xE0000 + ord(letter)) for letter in region) for region in ("gbeng", "gbsct", "gbwls")]
_FLAGS = re.compile(f"\U0001f3f4(?:{'|'.join(_REGIONS)})\U000e007f")


def visible(text: str) -> str:
    r"""Replace each hidden character by a sign: `␛` for escape, `\x9b` for a C1 control, `\u202e` for an override."""
    if _PLAIN.fullmatch(text):
        return text
    return replaced(text, _sign)


def replaced(text: str, sign: Callable[[str], str]) -> str:
    """The text with `sign(c)` in place of each hidden character."""
    return "".join(sign(c) if hidden else c for c, hidden in looked_at(text))


def looked_at(text: str) -> Iterator[tuple[str, bool]]:
    """Yield each character and whether it is hidden: shows nothing, or controls how text is shown."""
    flags = {i for flag in _FLAGS.finditer(text) for i in range(*flag.span())}
    for i, c in enumerate(text):
        before, after = text[i - 1 : i], text[i + 1 : i + 2]
        yield c, i not in flags and _is_hidden(c, before, after)


def _is_hidden(c: str, before: str, after: str) -> bool:
    if " " <= c <= "~" or c in "\n\t":
        return False
    if c in _JOINERS:  # between letters of ASCII they join nothing
        return (before != "" and before.isascii()) or (after != "" and after.isascii())
    if _varies(c):
        return before != "" and (_varies(before) or (before.isascii() and after != _KEYCAP))
    if c in _BLANKS:
        return True
    return c not in _SHOWN_FORMATS and unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")


def _varies(c: str) -> bool:
    """Whether it is a variation selector; a row of them can hide a text."""
    return "\ufe00" <= c <= "\ufe0f" or "\U000e0100" <= c <= "\U000e01ef"


def _sign(c: str) -> str:
    code = ord(c)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def visible_json(document: str) -> str:
    """A JSON document with its hidden characters escaped as JSON does it; what it says stays the same."""
    return replaced(document, _json_escape)


def _json_escape(c: str) -> str:
    units = c.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2))


class VisibleLog(logging.Filter):
    """Makes hidden characters visible in the records of a logger or handler, tracebacks included."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = visible(record.getMessage()), ()
        if record.exc_info:
            record.exc_text = visible(logging.Formatter().formatException(record.exc_info))
        return True
