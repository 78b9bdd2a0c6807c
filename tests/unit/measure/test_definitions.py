"""The table of names covers exactly what is measured."""

from engine.decode.counts import Counts
from engine.measure import compare
from engine.measure.definitions import OTHERS, RATES

COUNTS = Counts(rounds=2, drafted=8, accepted=4, rejected=2, discarded=2, emitted=6)


def test_every_rate_that_is_compared_is_explained():
    assert set(RATES) == set(compare.RATES)
    assert RATES["per_proposed"].definition.startswith("Accepted / proposed tokens. Falls")


def test_every_number_of_another_system_is_named():
    assert list(OTHERS) == list(COUNTS.as_others_report())
    assert OTHERS["sglang_accept_length"].title == "SGLang: accept length"
