"""The table of names covers exactly what is measured."""

from dataclasses import asdict

from engine.decode.counts import Counts
from engine.measure import compare
from engine.measure.definitions import OTHERS, RATES

COUNTS = Counts(rounds=2, drafted=8, accepted=4, rejected=2, discarded=2, emitted=6)


def test_every_rate_is_explained_and_computed_from_the_counts_of_a_trace():
    sampled = {name: rate for name, rate in RATES.items() if name not in compare.ON_TARGET_TEXT}
    counts = asdict(COUNTS)
    ratios = {
        name: counts[rate.numerator] / sum(counts[part] for part in rate.denominator) for name, rate in sampled.items()
    }
    assert ratios == COUNTS.rates()
    assert RATES["per_proposed"].definition.startswith("Accepted / proposed tokens. Falls")


def test_every_number_of_another_system_is_named():
    assert list(OTHERS) == list(COUNTS.as_others_report())
    assert OTHERS["sglang_accept_length"].title == "SGLang: accept length"
