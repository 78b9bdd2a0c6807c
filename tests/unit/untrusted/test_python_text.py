"""What Python prints is read back, and nothing in it is run."""

from __future__ import annotations

import pytest

from engine.untrusted.python_text import loads


def test_what_python_prints_is_read_back():
    value = [{"role": "user", "content": "it's \\d 🙂\n", "n": [1, -2.5, True, None]}]
    assert loads(f" {value!r}\n") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "'x'",
        "1",
        "[1",
        "[open('x')]",
        "[{}[0]]",
        "{'a': 1, 'a': 2}",
        "[{'a': {'b': 1, 'b': 1}}]",
        "[" * 100_000,
        "[" * 250 + "]" * 250,
        "[1 for _ in ()]",
        "[\0]",
        "[{'a': '" + "x" * 300_000 + "'}]",
        "[" + "9" * 5000 + "]",
        "[{[]: 1}]",
    ],
)
def test_anything_else_is_a_value_error(text: str):
    with pytest.raises(ValueError):  # noqa: PT011 - the reason is shown nowhere
        loads(text)
