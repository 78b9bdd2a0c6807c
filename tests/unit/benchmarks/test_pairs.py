"""Ways that take turns: who goes first, what is counted, and the ratio of what they did."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.speed.pairs import Paired, Rounds, Sample, interleave


def test_ways_take_turns_and_each_goes_first_equally_often():
    order: list[str] = []

    def way(name: str):
        return lambda number: order.append(name) or 1.0

    interleave({name: way(name) for name in "abc"}, Rounds(6), unit="x", warm_up=0, clock=itertools.count().__next__)
    firsts = order[::3]
    assert {name: firsts.count(name) for name in "abc"} == {"a": 2, "b": 2, "c": 2}


def test_the_clock_is_read_after_the_device_has_finished_and_warm_up_is_not_counted():
    now, waits = [0.0], []

    def work(number: int) -> float:
        now[0] += 2.0
        return 10.0

    def wait() -> None:
        waits.append(now[0])
        now[0] += 0.5

    paired = interleave({"a": work}, Rounds(3), unit="tokens", warm_up=2, wait=wait, clock=lambda: now[0])
    assert paired.samples["a"] == [Sample(10.0, 2.5)] * 3, "the wait behind the work belongs to it"
    assert len(waits) == 6, "twice a round, never while warming up"


def test_a_way_that_times_itself_is_believed():
    paired = interleave({"a": lambda number: Sample(3.0, 0.25)}, Rounds(2), unit="x")
    assert paired.rate("a").value == 12


def test_the_ratio_is_of_rates_and_drift_common_to_both_ways_leaves_it_certain():
    drift = [1.0, 1.5, 2.0, 4.0]
    fast, slow = [Sample(10, s) for s in drift], [Sample(10, 2 * s) for s in drift]
    ratio = Paired("x", {"fast": fast, "slow": slow}).ratio("fast", "slow")
    assert (ratio.value, ratio.low, ratio.high) == pytest.approx((2, 2, 2))


def test_when_the_time_is_over_no_round_begins_but_those_that_are_needed():
    now = [0.0]

    def work(number: int) -> float:
        now[0] += 10.0
        return 1.0

    def rounds_done(rounds: Rounds) -> int:
        return len(interleave({"a": work}, rounds, unit="x", clock=lambda: now[0]).samples["a"])

    assert rounds_done(Rounds(9, limit_s=45)) == 4, "the warm-up and four rounds are 50 s"
    assert rounds_done(Rounds(9, limit_s=0)) == 3
    assert rounds_done(Rounds(2)) == 2


def test_an_interrupted_comparison_keeps_its_whole_rounds():
    def until(last: int):
        def work(number: int) -> float:
            if number == last:
                raise KeyboardInterrupt
            return 1.0

        return work

    ways = {"a": lambda number: 1.0, "b": until(3)}
    paired = interleave(ways, Rounds(9), unit="x")
    assert [len(listed) for listed in paired.samples.values()] == [3, 3]
    with pytest.raises(KeyboardInterrupt):
        interleave({"b": until(1)}, Rounds(9), unit="x")
