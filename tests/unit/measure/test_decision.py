"""One answer for a draft: served only where every interval says faster, and the same words on real runs."""

import itertools
import math
import random
from typing import Any

import pytest

from engine.cli.text.summary import summary as print_summary
from engine.config.schema import PromptsSpec, Recipe
from engine.export.model_card import model_card
from engine.measure.decision import ANSWERS, answer_of, decide
from engine.numbers import LEAST_PROMPTS
from engine.paths import PROJECT_ROOT
from engine.records.certificate import Certificate
from engine.records.interval import Interval
from engine.records.provenance import Provenance
from engine.records.speed import ForwardSeconds, GammaRow, MachineLoad, Speed
from engine.records.summary import Conditions, Metric, Summary

PROMPTS = PromptsSpec.model_validate({"train": "train.jsonl", "heldout": "heldout.jsonl"})
SAMPLES = PROJECT_ROOT / "sample_data" / "runs"
FASTER, OPEN, SLOWER = Interval(1.2, 1.1, 1.3, 12), Interval(1.05, 0.97, 1.18, 12), Interval(0.8, 0.7, 0.9, 12)
FEW = Interval(1.5, 1.4, 1.6, 4)


def summary(plain: Interval | None, generate: Interval | None, **more: Any) -> Summary:
    speed = Speed(speedup=plain, speedup_over_transformers=generate, temperature=1.0, **more)
    return Summary(speed=speed, certificate=Certificate(passed=True))


@pytest.mark.parametrize(("plain", "generate"), itertools.product([FASTER, OPEN, SLOWER, FEW, None], repeat=2))
def test_served_only_if_it_beats_both_and_no_gain_only_if_one_beats_it(
    plain: Interval | None, generate: Interval | None
):
    answer = decide(summary(plain, generate)).answer
    if plain is None:
        assert answer == "not decided yet"  # nothing was timed
    elif SLOWER in (plain, generate):
        assert answer == "no gain"
    else:
        assert answer == ("serve it" if plain is generate is FASTER else "not decided yet")


def test_faster_is_not_said_of_an_interval_that_holds_1():
    for low in (0.5, 0.9, 0.999, 1.0):
        decision = decide(summary(Interval(1.5, low, 2.0, 30), Interval(1.5, low, 2.0, 30)))
        assert decision.answer == "not decided yet"
        assert ": faster" not in decision.sentence
        assert "an interval holds 1" in decision.changes[0]


def test_a_draft_whose_certificate_failed_is_not_served():
    fast = summary(FASTER, FASTER).model_copy(update={"certificate": Certificate(passed=False)})
    assert decide(fast).answer == "not decided yet"
    assert "certificate failed" in decide(fast).reasons[0]


def test_generate_that_was_not_timed_leaves_it_open():
    decision = decide(summary(FASTER, None))
    assert decision.answer == "not decided yet"
    assert "generate was not timed" in decision.sentence
    assert "draftbench measure RUN" in decision.changes[0]


def test_what_was_not_timed_says_how_to_time_it():
    decision = decide(Summary())
    assert decision.answer == "not decided yet"
    assert "measure.speed_prompts" in decision.changes[0]


def costed(expected: float) -> dict[str, Any]:
    return {
        "forward_s": ForwardSeconds(plain_s=0.02, draft_s=0.01, verify_s=0.024, overhead_s=0.001, num_draft_tokens=3),
        "cost_ratio": 0.5,
        "alpha": 0.4,
        "by_gamma": [GammaRow(gamma=1, expected_tokens=1.4, measured=1.2), GammaRow(gamma=3, expected_tokens=expected)],
    }


def test_the_draft_that_would_pay_is_named_with_its_time():
    """tokens 2 of 0.02 s each are worth 0.04 s; less 0.025 s that leaves 0.015 s for 3 draft forwards."""
    decision = decide(summary(SLOWER, SLOWER, **costed(2.0)))
    assert any("at most 5.0 ms, now 10.0 ms" in change for change in decision.changes)
    assert "c = 0.500" in decision.sentence
    # a round takes 3 * 0.01 + 0.024 + 0.001 s, 2.75 plain steps: 1 + a + a^2 + a^3 = 2.75 at a = 0.754
    assert "gamma 3 pays from an acceptance of 0.75, measured 0.40 per judged token" in decision.sentence
    assert any("no draft is cheap enough" in change for change in decide(summary(SLOWER, None, **costed(1.2))).changes)


def test_acceptance_of_another_temperature_says_so():
    at_one = summary(SLOWER, SLOWER, **costed(2.0), alpha_temperature=1.0)
    assert decide(at_one).sentence.count("per judged token; ") + decide(at_one).sentence.endswith("judged token") == 1
    at_zero = summary(SLOWER, SLOWER, **costed(2.0), alpha_temperature=0.0)
    assert "measured 0.40 per judged token at temperature 0" in decide(at_zero).sentence


def test_without_a_certificate_nothing_is_served():
    decision = decide(summary(FASTER, FASTER).model_copy(update={"certificate": None}))
    assert decision.answer == "not decided yet"
    assert decision.reasons[0] == "there is no losslessness certificate"


def test_a_better_gamma_is_named_and_a_worse_one_is_not():
    rows = [GammaRow(gamma=1, measured=1.2), GammaRow(gamma=3, measured=0.9)]
    at_three = summary(OPEN, OPEN, forward_s=ForwardSeconds(num_draft_tokens=3), by_gamma=rows)
    assert "gamma 1 is predicted to give 1.20x plain decoding, this one 0.90x" in decide(at_three).changes
    at_one = summary(OPEN, OPEN, forward_s=ForwardSeconds(num_draft_tokens=1), by_gamma=rows)
    assert not any("predicted" in change for change in decide(at_one).changes)


@pytest.mark.parametrize(("proposals", "named"), [("sampled", True), ("argmax", False)])
def test_servers_whose_rule_accepts_more_are_named(proposals: Any, named: bool):
    metrics = [
        Metric(draft="trained", temperature=1.0, metric=name, value=value, low=value - 0.02, high=value + 0.02)
        for name, value in (("argmax", 0.6), ("exact", 0.4))
    ]
    at = summary(OPEN, OPEN).model_copy(update={"conditions": Conditions(proposals=proposals), "metrics": metrics})
    assert any("llama.cpp" in change and "0.600" in change for change in decide(at).changes) is named


@pytest.mark.parametrize(
    ("run", "answer"),
    [
        ("serve-function-calling-20261122-183534-e295", "serve it"),
        ("biology-forward-kl-20261122-101542-9142", "no gain"),
        ("biology-historical-20261122-150606-8afd", "not decided yet"),
    ],
)
def test_real_runs(run: str, answer: str):
    measured = Summary.read(SAMPLES / run)
    assert measured is not None
    decision = decide(measured)
    assert decision.answer == answer
    assert decision.sentence.startswith(answer.capitalize())
    assert f"{measured.speed.speedup.value:.2f}x plain decoding" in decision.sentence  # type: ignore[union-attr]


def test_the_answers_of_forecasts_are_the_same_words():
    assert {answer_of([FASTER]), answer_of([SLOWER]), answer_of([OPEN]), answer_of([])} == set(ANSWERS)


def test_a_busy_machine_stands_in_the_reasons_and_an_idle_one_does_not():
    busy = decide(summary(FASTER, FASTER, load=MachineLoad(before=0.0, during=0.9, cores=2)))
    assert busy.answer == "serve it"
    assert "the machine was busy: other processes kept 0.9 of 2 cores busy" in busy.sentence
    assert any("while nothing else runs here" in change for change in busy.changes)
    idle = decide(summary(FASTER, FASTER, load=MachineLoad(before=2.0, during=0.1, cores=2)))
    assert "busy" not in idle.sentence


def intervals(draw: random.Random) -> Interval | None:
    """Any interval that a timing may give: none, without bounds, of few prompts, at 1 or across it."""
    if draw.random() < 0.1:
        return None
    low, high = sorted(draw.choice([1.0, draw.uniform(0.6, 2.5), draw.uniform(0.6, 2.5)]) for _ in range(2))
    bounds = (math.nan, math.nan) if draw.random() < 0.1 else (low, high)
    return Interval(draw.uniform(low, high), *bounds, draw.choice([1, 5, 6, 12, 12, 40]))


@pytest.mark.slow
@pytest.mark.parametrize("subject", ["trained draft", "draft as it is", "target alone"])
def test_no_sentence_anywhere_says_faster_or_serve_of_an_interval_that_holds_1(
    subject: Any, capsys: pytest.CaptureFixture[str]
):
    """The sentence, what the terminal prints of a measurement, and the model card, on 300 random timings."""
    draw = random.Random(subject)
    served = 0
    for _ in range(300):
        plain, generate = intervals(draw), intervals(draw)
        measured = summary(plain, generate).model_copy(update={"subject": subject})
        decision = decide(measured)
        print_summary("run", measured, Provenance())
        card = model_card("run", Recipe(prompts=PROMPTS), measured, Provenance())
        texts = (decision.sentence, " ".join(capsys.readouterr().out.split()), card)
        beats = [ratio is not None and known(ratio) and ratio.low > 1 for ratio in (plain, generate)]
        served += decision.answer == "serve it"
        assert (decision.answer == "serve it") == (all(beats) and subject != "target alone")
        assert " RUN" not in card, "commands name the run"
        for text in texts:
            assert ("Serve it" in text) == (decision.answer == "serve it")
            if not any(beats):
                assert ": faster" not in text
        if generate is not None and plain is not None and known(generate) and generate.high < 1:
            assert decision.answer != "serve it"
            assert subject == "target alone" or decision.answer == "no gain"
    assert served > 5 or subject == "target alone"


def known(ratio: Interval) -> bool:
    return ratio.n_prompts >= LEAST_PROMPTS and not math.isnan(ratio.low)


def test_a_target_alone_is_not_decided_and_says_what_to_beat():
    speed = Speed(tokens_per_s={"plain": Interval(16.0, 15.0, 17.0, 8), "transformers": Interval(11.0, 10.0, 12.0, 8)})
    decision = decide(Summary(subject="target alone", speed=speed))
    assert decision.answer == "not decided yet"
    assert decision.reasons == (
        "no draft was measured",
        "plain decoding gives 16.0 [15.0, 17.0] tokens/s",
        "Transformers' own generate gives 11.0 [10.0, 12.0] tokens/s",
    )
    assert any("measure-only" in change for change in decision.changes)
