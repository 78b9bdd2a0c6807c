"""Parse a list or object as Python prints it: pandas writes that into CSV where a cell holds one, instead of JSON."""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

_OPENS = re.compile(r"\s*[\[{]")
_MAX_CHARACTERS = 256 * 1024  # Python's parser takes some hundred bytes for each


def loads(text: str) -> Any:
    """Parse `text`, which no code in it can affect. Raises ValueError, and nothing else, whatever the text."""
    if len(text) > _MAX_CHARACTERS or not _OPENS.match(text):
        raise ValueError("is not a list or an object of Python")
    try:
        with warnings.catch_warnings(action="ignore"):  # of backslashes that mean nothing
            tree = ast.parse(text.strip(), mode="eval")
        for node in ast.walk(tree):
            keys = [ast.dump(key) for key in node.keys if key is not None] if isinstance(node, ast.Dict) else []
            if len(set(keys)) < len(keys):
                raise ValueError("has a key twice")
        return ast.literal_eval(tree)
    except (SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"is not a list or an object of Python: {type(error).__name__}") from None
