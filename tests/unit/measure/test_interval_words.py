"""Of too few prompts nothing is marked and no bounds are shown, whatever was stored."""

from __future__ import annotations

import math

from engine.measure.interval_words import bounds_words, mark, stated, trusted
from engine.numbers import LEAST_PROMPTS
from engine.records.interval import Interval


def test_two_prompts_give_no_mark_and_no_bounds():
    change = Interval(-0.024, -0.099, -0.009, 2)
    assert mark(change) == ""
    assert stated(change, sign="+") == "-0.024 (n = 2: too few for an interval)"
    assert math.isnan(trusted(change).low)
    assert math.isnan(trusted(change).high)
    assert (trusted(change).value, trusted(change).n_prompts) == (-0.024, 2)
    assert change.low == -0.099, "what is stored stays as it is"


def test_from_the_least_number_on_an_interval_counts():
    for n in (LEAST_PROMPTS - 1, LEAST_PROMPTS):
        change = Interval(0.2, 0.1, 0.3, n)
        assert mark(change) == ("▲" if n >= LEAST_PROMPTS else "")
        assert (trusted(change) == change) == (n >= LEAST_PROMPTS)
    assert stated(Interval(0.2, 0.1, 0.3, LEAST_PROMPTS), sign="+") == "+0.200 [+0.100, +0.300]"


def test_a_mark_is_the_side_of_zero_that_the_whole_interval_lies_on():
    assert [mark(Interval(0, *bounds, 9)) for bounds in ((0.1, 0.3), (-0.3, -0.1), (-0.1, 0.1))] == ["▲", "▼", "≈"]
    assert bounds_words(Interval(0.4, math.nan, math.nan, 9)) == ""
    assert stated(Interval()) == "-"
