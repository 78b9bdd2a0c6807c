"""JSON of strangers: what is wrong with it is said in a phrase that fits after a file's name."""

from __future__ import annotations

import pytest

from engine.untrusted import json_text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"prom', "is not valid JSON: Unterminated string starting at column 2"),
        ('{"a":\n}', "is not valid JSON: Expecting value at line 2, column 1"),
    ],
)
def test_a_torn_text_is_refused_with_its_place(text: str, reason: str):
    with pytest.raises(ValueError, match=f"^{reason}$"):
        json_text.loads(text)
