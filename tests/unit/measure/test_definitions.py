"""The table of names covers exactly what is measured."""

from dataclasses import asdict

from engine.decode.counts import Counts
from engine.measure import compare
from engine.measure.definitions import OTHERS, RATES

COUNTS = Counts(rounds=2, drafted=8, accepted=4, rejected=2, discarded=2, emitted=6)


def test_the_rates_of_a_trace_are_those_of_the_table():
    counts = asdict(COUNTS)
    for name, value in COUNTS.rates().items():
        rate = RATES[name]
        assert value == counts[rate.numerator] / sum(counts[part] for part in rate.denominator)


def test_every_rate_is_of_the_targets_text_or_of_what_a_trace_counts():
    for name, rate in RATES.items():
        assert name in compare.ON_TARGET_TEXT or {rate.numerator, *rate.denominator} <= asdict(COUNTS).keys()
    assert RATES["per_proposed"].definition.startswith("Accepted / proposed tokens. Falls")
    assert (RATES["tau"].per_forward, RATES["per_emitted"].per_forward) == (True, False)


def test_every_number_of_another_system_is_named():
    assert list(OTHERS) == list(COUNTS.as_others_report())
    assert OTHERS["sglang_accept_length"].title == "SGLang: accept length"
