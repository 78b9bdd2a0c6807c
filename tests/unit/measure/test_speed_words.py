"""Faster is said only where the interval says so, and a figure names its machine."""

import math

import pytest

from engine.measure.speed_words import compared, describe, load_words, measured_where, verdict
from engine.numbers import bounds, interval, number
from engine.records.interval import Interval
from engine.records.provenance import Machine, MeasuredBy, Provenance
from engine.records.speed import MachineLoad, Speed
from engine.records.summary import Conditions, Summary


def ratio(value, low, high, n=12):
    return Interval.of({"value": value, "low": low, "high": high, "n_prompts": n})


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (ratio(1.2, 1.1, 1.3), "faster"),
        (ratio(1.07, 0.97, 1.18), "not clearly faster"),
        (ratio(1.07, 1.0, 1.18), "not clearly faster"),
        (ratio(0.98, 0.9, 1.01), "not clearly faster"),
        (ratio(0.8, 0.7, 0.9), "slower"),
        (ratio(1.5, None, None), "not known to be faster"),
        (ratio(1.5, math.nan, math.nan), "not known to be faster"),
        (ratio(None, None, None), "not known to be faster"),
        (ratio(1.5, 1.4, 1.6, n=4), "not known to be faster"),
        (Interval(), "not known to be faster"),
        (None, "not known to be faster"),
    ],
)
def test_verdict(found, words):
    assert verdict(found) == words


def test_every_way_that_was_timed_counts():
    speed = Speed(speedup=ratio(1.07, 1.02, 1.13), speedup_over_transformers=ratio(1.02, 0.98, 1.07))
    assert describe(speed) == (
        "1.07x plain decoding [1.02, 1.13]: faster; 1.02x Transformers' own generate [0.98, 1.07]: not clearly faster"
    )
    assert describe(Speed()) == ""
    assert describe(Speed(speedup=ratio(None, None, None, 1))) == "-x plain decoding: not known to be faster"


def test_where_it_was_measured():
    summary = Summary(conditions=Conditions(device="cpu", dtype="bfloat16", threads=2))
    old, new = (Machine(processor=name, cores=2) for name in ("OLD", "AMD EPYC"))
    both = Provenance(machine=old, measurement=MeasuredBy(machine=new))
    assert measured_where(summary, both) == "AMD EPYC, 2 cores, 2 threads, bfloat16 on cpu"
    assert measured_where(summary, Provenance(machine=old)) == "OLD, 2 cores, 2 threads, bfloat16 on cpu"
    card = Provenance(machine=Machine(processor="x", cores=8, cuda=["H100", "H100"]))
    on_card = Summary(conditions=Conditions(device="cuda", dtype="float32"))
    assert measured_where(on_card, card) == "H100, float32 on cuda"
    assert measured_where(summary, Provenance()) == "2 threads, bfloat16 on cpu"
    assert measured_where(Summary(), Provenance()) == ""


@pytest.mark.parametrize("missing", [None, math.nan, math.inf, "x", True])
def test_missing_numbers_as_text(missing):
    assert number(missing) == "-"
    assert interval(Interval(missing)) == "-"
    assert interval(Interval(0.5, missing, 1)) == "0.500"
    assert bounds(Interval(low=0.5, high=missing)) == bounds(Interval()) == "-"
    assert (number(0), bounds(Interval(low=0, high=1), 1)) == ("0.000", "0.0 to 1.0")


@pytest.mark.parametrize("value", [10**400, float("inf"), float("nan"), None, "1", True, [1]])
def test_what_is_no_finite_number_is_missing_and_never_an_exception(value: object):
    assert number(value) == interval(Interval(value)) == "-"
    assert verdict(Interval(value, value, value, 12)) == "not known to be faster"


@pytest.mark.parametrize(
    ("load", "words"),
    [
        (None, "load not recorded"),
        (MachineLoad(), "load not recorded"),
        (MachineLoad(during=0.2, cores=2), ""),  # a tenth of the cores is the limit
        (MachineLoad(during=0.21, cores=2), "the machine was busy: other processes kept 0.2 of 2 cores busy"),
        (MachineLoad(during=3.04, cores=16), "the machine was busy: other processes kept 3.0 of 16 cores busy"),
        (MachineLoad(during=1.5), "the machine was busy: other processes kept 1.5 cores busy"),
    ],
)
def test_how_busy_the_machine_was_stands_beside_where_it_was_measured(load: MachineLoad | None, words: str):
    assert load_words(Speed(load=load)) == words
    where = measured_where(Summary(speed=Speed(threads=2, load=load)), Provenance())
    assert where == ", ".join(filter(None, ("2 threads", words)))


def test_too_few_prompts_have_their_number_in_place_of_bounds():
    few = ratio(1.5, 1.4, 1.6, n=4)
    assert describe(Speed(speedup=few)) == "1.50x plain decoding (n = 4): not known to be faster"
    assert (interval(few), bounds(few)) == ("1.500 (n = 4)", "-")
    assert interval(ratio(1.5, 1.4, 1.6, n=6), 2) == "1.50 [1.40, 1.60]"


@pytest.mark.parametrize(
    ("value", "low", "high", "words"),
    [
        (1.2841, 1.25, 1.3, "1.28x plain decoding [1.25, 1.30]: faster"),
        (1.0034, 1.0012, 1.0049, "1.003x plain decoding [1.001, 1.005]: faster"),
        (0.9974, 0.9951, 0.9988, "0.997x plain decoding [0.995, 0.999]: slower"),
        (1.0001, 1.00006, 1.0002, "1.0001x plain decoding [1.0001, 1.0002]: faster"),
        (1.07, 0.999, 1.18, "1.07x plain decoding [1.00, 1.18]: not clearly faster"),
        (1.07, math.nan, math.nan, "1.07x plain decoding: not known to be faster"),
    ],
)
def test_no_rounding_hides_why_a_ratio_is_called_faster(value: float, low: float, high: float, words: str):
    """1.0034 [1.0012, 1.0049] was printed as '1.00x plain decoding [1.00, 1.00]: faster'."""
    assert compared(Interval(value, low, high, 12), "plain decoding") == words
