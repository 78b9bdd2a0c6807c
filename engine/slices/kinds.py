"""The kind of every token of an answer: JSON structure, key, name or value, number, Chinese, code, word and so on.

Tokens are pieces of bytes, so a kind belongs to characters first: the answer's text is read once from left to right,
each character gets a kind from its surroundings, and a token gets that of most of the characters that it covers. White
space counts only in a token of nothing else: the space before a word belongs to the word.

Answers are cut at a limit and models write broken JSON, so JSON is read as far as it goes instead of being parsed.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from engine.slices.function_words import function_words_of

KINDS: dict[str, str] = {
    "json_structure": "brackets, commas, colons and quotes of JSON",
    "json_key": "keys of JSON objects",
    "json_name": "the name of a called function: the value of `name` or `function`",
    "json_value": "text in JSON values, and true, false, null",
    "number": "numbers, in JSON too, but not inside its texts",
    "chinese": "Chinese characters",
    "code": "code in backticks or fences",
    "function_word": "articles, pronouns, prepositions, conjunctions, auxiliaries",
    "content_word": "all other words, in any alphabet",
    "punctuation": "punctuation and symbols",
    "whitespace": "spaces and line ends between words",
    "special": "special tokens, and tags such as <tool_call>",
    "broken": "bytes that make no whole character",
}
"""Kind -> what it covers, in the order in which a tie within a token is decided."""

_BROKEN = "\ufffd"
_FENCE = re.compile(r"```(?P<language>[^\n`]*)\n?(?P<body>.*?)(?:```|\Z)", re.DOTALL)
_INLINE = re.compile(r"`[^`\n]+`")
_TAG = re.compile(r"</?[A-Za-z][\w.-]*/?>|<\|[^|<>\n]{1,40}\|>")
_JSON_BEGINS = re.compile(r'\{\s*(?:["}]|\Z)|\[\s*[{"\[]')
_JSON_PART = re.compile(
    r'(?P<space>\s+)|(?P<text>"(?:[^"\\]|\\.)*(?:"|\\?\Z))|(?P<number>-?\d+(?:\.\d*)?(?:[eE][+-]?\d*)?)'
    r"|(?P<literal>true|false|null)|(?P<mark>[{}\[\]:,])",
    re.DOTALL,
)
_HAN = "\u3005\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_PROSE = re.compile(
    rf"(?P<space>\s+)|(?P<chinese>[{_HAN}]+)|(?P<number>\d+(?:[.,:]\d+)*)"
    rf"|(?P<word>(?:[^\W\d_{_HAN}])+(?:['’](?:[^\W\d_{_HAN}])+)*)|(?P<broken>{_BROKEN}+)|(?P<mark>.)",
    re.DOTALL,
)
_NAMES = frozenset({"name", "function"})  # keys whose text names what is called
_ARGUMENTS = frozenset({"arguments", "parameters", "args", "input", "properties"})  # below these, a name is a value
_ORDER = {kind: place for place, kind in enumerate(KINDS)}


def kinds_of_pieces(pieces: Sequence[str], special: Sequence[bool]) -> list[str]:
    """The kind of each token of an answer: [token] -> keys of `KINDS`.

    `pieces`: the text that each token completes, "" for one that ends inside a character (see
    `engine.decode.text.TextStream`); it is then of the kind of the character that it begins. `special`: whether it is a
    special token, whose text is no part of the answer.
    """
    shown = ["" if mark else piece for piece, mark in zip(pieces, special, strict=True)]
    of_characters = kinds_of_characters("".join(shown))
    kinds: list[str] = []
    start, begun = 0, 0  # `begun`: tokens since the last whole character, which begin the next one
    for piece, is_special in zip(shown, special, strict=True):
        kind = "special" if is_special else _majority(of_characters[start : start + len(piece)]) if piece else "broken"
        kinds.append(kind)
        if piece and begun:
            kinds[-1 - begun : -1] = [kind] * begun
        begun = begun + 1 if not (piece or is_special) else 0
        start += len(piece)
    return kinds


def _majority(covered: Sequence[str]) -> str:
    """The kind of most of a token's characters; white space counts only where there is nothing else."""
    counts = Counter(kind for kind in covered if kind != "whitespace")
    return min(counts, key=lambda kind: (-counts[kind], _ORDER[kind])) if counts else "whitespace"


def kinds_of_characters(text: str) -> list[str]:
    """The kind of each character of a text."""
    kinds = [""] * len(text)
    prose_words = [match["word"].lower() for match in _PROSE.finditer(text) if match["word"]]
    function_words = function_words_of(word.replace("’", "'") for word in prose_words)
    _mark_code(text, kinds)
    _mark_json(text, kinds)
    for match in _TAG.finditer(text):
        if not any(kinds[match.start() : match.end()]):
            kinds[match.start() : match.end()] = ["special"] * len(match[0])
    start = 0
    while start < len(text):  # what is left is prose
        end = start
        while end < len(text) and not kinds[end]:
            end += 1
        for match in _PROSE.finditer(text, start, end):
            kinds[match.start() : match.end()] = [_of_prose(match, function_words)] * len(match[0])
        start = end + 1
    return kinds


def _of_prose(match: re.Match[str], function_words: frozenset[str]) -> str:
    if match.lastgroup == "word":
        return "function_word" if match[0].lower().replace("’", "'") in function_words else "content_word"
    return {"space": "whitespace", "mark": "punctuation"}.get(match.lastgroup or "", match.lastgroup or "punctuation")


def _mark_code(text: str, kinds: list[str]) -> None:
    """Mark fenced and inline code. The inside of a fence that says it is JSON is left to be read as JSON."""
    for match in _FENCE.finditer(text):
        _fill(text, kinds, match.start(), match.end(), "code")
        if match["language"].strip().lower() in ("json", "jsonc") and match["body"]:
            kinds[match.start("body") : match.end("body")] = [""] * len(match["body"])
    for match in _INLINE.finditer(text):
        if not any(kinds[match.start() : match.end()]):
            _fill(text, kinds, match.start(), match.end(), "code")


def _fill(text: str, kinds: list[str], start: int, end: int, kind: str) -> None:
    kinds[start:end] = ["whitespace" if character.isspace() else kind for character in text[start:end]]


def _mark_json(text: str, kinds: list[str]) -> None:
    start = 0
    while (match := _JSON_BEGINS.search(text, start)) is not None:
        start = match.start()
        if kinds[start]:
            start += 1
            continue
        start = max(_JsonReader(text, kinds).read(start), start + 1)


class _JsonReader:
    """Read one JSON value that begins at a bracket, and mark its characters, up to its end or to what is no JSON."""

    def __init__(self, text: str, kinds: list[str]) -> None:
        self._text, self._kinds = text, kinds
        self._open: list[str] = []  # brackets
        self._keys: list[str] = []  # the last key of each open bracket; "" in an array or before the first key
        self._key_next = False

    def read(self, start: int) -> int:
        """Where it ends."""
        while (match := _JSON_PART.match(self._text, start)) is not None and not self._kinds[start]:
            start = match.end()
            if match.lastgroup == "text":
                self._mark_text(match)
            elif match.lastgroup == "mark":
                self._mark(match, "json_structure")
                if self._take_mark(match[0]):
                    break
            else:
                kind = {"space": "whitespace", "literal": "json_value"}.get(match.lastgroup or "", "number")
                self._mark(match, kind)
        return start

    def _take_mark(self, mark: str) -> bool:
        """Follow a bracket, comma or colon; whether the value is complete."""
        if mark in "{[":
            self._open.append(mark)
            self._keys.append("")
            self._key_next = mark == "{"
        elif mark in "}]":
            self._open.pop()
            self._keys.pop()
            self._key_next = False
        else:
            self._key_next = mark == "," and self._open[-1] == "{"
        return not self._open

    def _mark_text(self, match: re.Match[str]) -> None:
        body = match[0][1:]
        closed = len(body) > 0 and match[0].endswith('"') and not _ends_escaped(body[:-1])
        inner = body[:-1] if closed else body
        if self._key_next:
            self._keys[-1] = inner
            kind = "json_key"
        elif self._keys[-1] in _NAMES and not _ARGUMENTS.intersection(self._keys[:-1]):
            kind = "json_name"
        else:
            kind = "json_value"
        begin = match.start() + 1
        self._kinds[match.start()] = "json_structure"
        _fill(self._text, self._kinds, begin, begin + len(inner), kind)
        if closed:
            self._kinds[match.end() - 1] = "json_structure"

    def _mark(self, match: re.Match[str], kind: str) -> None:
        self._kinds[match.start() : match.end()] = [kind] * len(match[0])


def _ends_escaped(text: str) -> bool:
    """Whether the next character would be escaped by the backslash at the end of a JSON text."""
    return (len(text) - len(text.rstrip("\\"))) % 2 == 1
