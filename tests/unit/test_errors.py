"""The boundary around libraries that read a stranger's input."""

from __future__ import annotations

import pytest

from engine.errors import Cancelled, DraftbenchError, boundary


@pytest.mark.parametrize(
    "error", [ValueError("bad\nmore"), RecursionError("deep"), KeyError("x"), LookupError(), OSError(5, "io")]
)
def test_whatever_a_library_raises_is_explained(error: Exception) -> None:
    with pytest.raises(DraftbenchError) as raised, boundary("a.json could not be read", "correct it"):
        raise error
    assert (raised.value.what, raised.value.fix) == ("a.json could not be read", "correct it")
    assert type(error).__name__ in raised.value.why
    assert "\n" not in raised.value.why


@pytest.mark.parametrize("error", [DraftbenchError("explained"), Cancelled(), MemoryError(), KeyboardInterrupt()])
def test_what_has_an_explanation_of_its_own_passes(error: BaseException) -> None:
    with pytest.raises(type(error)) as raised, boundary("a.json could not be read", "correct it"):
        raise error
    assert raised.value is error
