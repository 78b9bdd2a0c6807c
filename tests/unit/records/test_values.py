"""Times and JSON for the index and the disk."""

import json
from datetime import datetime

import pytest

from engine.records.values import json_text, utc


@pytest.mark.parametrize("odd", ["", "yesterday", "0001-01-01T00:00:00+14:00"])
def test_what_is_no_time_is_an_error(odd):
    with pytest.raises(ValueError, match=r"Invalid|not a time"):
        utc(odd)


def test_times_are_utc_without_a_zone():
    noon = datetime(2025, 6, 1, 12)
    for written in ("2025-06-01T12:00:00Z", "2025-06-01T14:00:00+02:00", "2025-06-01T12:00:00", "2025-06-01 12:00"):
        assert utc(written) == noon


def test_json_text_is_strict():
    written = json_text({"a": [float("nan"), 1.5], "b": {"c": float("-inf")}, "ü": "\udc00"})
    assert json.loads(written) == {"a": [None, 1.5], "b": {"c": None}, "ü": "?"}
