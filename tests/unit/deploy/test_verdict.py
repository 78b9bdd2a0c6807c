"""A server that does what was measured agrees; each wrong thing is noticed, and named first among its causes."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from engine.deploy.causes import Cause
from engine.deploy.importing import Stated, measurement_of
from engine.deploy.readers.reading import Reading
from engine.deploy.verdict import Verdict, judge
from engine.records.served import RoundTotals, ServedMeasurement, added
from tests.unit.deploy.real_run import GAMMA, of_requests, predictor, request, served, texts

pytestmark = pytest.mark.slow

AT_1 = Stated(temperature=1.0, gamma=GAMMA)


def causes(verdict: Verdict) -> list[str]:
    return [cause.name for cause in verdict.causes]


def first(verdict: Verdict) -> Cause:
    assert verdict.outcome == "differs", verdict.sentence
    return verdict.causes[0]


@pytest.mark.parametrize(("temperature", "column"), [(0.0, "hit"), (1.0, "hit"), (1.0, "kept")])
def test_a_server_that_does_as_measured_agrees(temperature: float, column: str):
    rule = "argmax" if column == "hit" else "sampled"
    stated = Stated(temperature=temperature, gamma=GAMMA, proposals=rule)  # type: ignore[arg-type]
    verdict = judge(served(list(texts(temperature, column).values()), stated=stated), predictor())
    assert verdict.outcome == "agrees", verdict.sentence
    assert [figure.name for figure in verdict.figures] == ["per_proposed", "tokens_per_round"]
    assert [figure.name for figure in verdict.places] == ["place_1", "place_2", "place_3"]
    assert all(abs(figure.served.value - figure.predicted.value) < 0.03 for figure in verdict.places)


def test_of_greedy_text_every_count_is_the_predicted_one():
    stated = Stated(temperature=0.0, gamma=GAMMA)
    verdict = judge(served(list(texts(0.0).values()), stated=stated), predictor())
    for figure in (*verdict.figures, *verdict.places):
        assert figure.served.value == pytest.approx(figure.predicted.value, abs=1e-12)


def test_on_half_of_the_prompts_it_still_agrees_and_without_requests_too():
    half = list(texts(1.0).values())[::2]
    assert judge(served(half), predictor()).outcome == "agrees"
    totals = served(list(texts(1.0).values())).model_copy(update={"per_request": []})
    verdict = judge(totals, predictor())
    assert (verdict.outcome, verdict.figures[0].basis) == ("agrees", "rounds")


def test_places_that_are_off_are_named_though_the_means_are_right():
    """As many accepted tokens, other places: fewer first ones and longer streaks."""
    stated = Stated(temperature=0.0, gamma=GAMMA)
    totals = RoundTotals(rounds=1000, proposed=3000, accepted=493, accepted_at=[256, 165, 72])
    verdict = judge(measurement_of(Reading("vllm", "scrapes", totals), "prometheus", stated), predictor())
    assert [figure.agrees for figure in verdict.figures] == [True, True]
    assert [figure.agrees for figure in verdict.places] == [False, False, False]
    assert verdict.sentence.startswith("not as predicted by place: accepted / proposed"), verdict.sentence
    assert all(f"token {place} accepted 0." in verdict.sentence for place in (1, 2, 3))
    assert first(verdict).name == "prompts"
    assert "some are easier and some harder" in first(verdict).why
    right = totals.model_copy(update={"accepted_at": [336, 119, 38]})
    verdict = judge(measurement_of(Reading("vllm", "scrapes", right), "prometheus", stated), predictor())
    assert (verdict.outcome, "token 1" in verdict.sentence) == ("agrees", False)


def test_the_same_prompts_are_compared_in_pairs():
    """What prompts have in common is no reason to differ, so a gap is noticed that other prompts would hide."""
    rng = np.random.default_rng(3)
    by_prompt = texts(1.0)
    requests = [request(np.where(rng.random(len(text)) < 0.06, 0.0, text), rng) for text in by_prompt.values()]
    unpaired = of_requests(requests)
    paired = unpaired.model_copy(update={"prompt_ids": list(by_prompt)})
    apart = [abs(judge(one, predictor()).figures[0].distance) for one in (unpaired, paired)]
    assert apart[1] > 2 * apart[0]
    assert judge(paired, predictor()).figures[0].basis == "prompts"


def test_the_other_sampling_rule_is_named_first():
    verdict = judge(served(list(texts(1.0, "kept").values())), predictor())
    assert first(verdict).name == "sampling_rule", verdict.causes
    assert "drawn from the draft would give accepted / proposed" in first(verdict).why
    assert any("likeliest token proposed" in sentence for sentence in verdict.taken)


@pytest.mark.parametrize("by_request", [True, False])
def test_a_bonus_token_that_is_counted_is_named_first(by_request: bool):
    requests = [request(text, np.random.default_rng(i)) for i, text in enumerate(texts(1.0).values())]
    counted = [
        one.model_copy(update={"accepted": (one.accepted or 0) + (one.rounds or 0), "accepted_at": None})
        for one in requests
    ]
    measurement = of_requests(counted)
    if not by_request:
        measurement = measurement.model_copy(update={"per_request": []})
    assert first(judge(measurement, predictor())).name == "bonus"


def test_another_temperature_is_named_first():
    verdict = judge(served(list(texts(0.0).values())), predictor())
    assert first(verdict).name == "temperature", verdict.causes
    assert "temperature 0" in first(verdict).why


def test_a_confidence_cut_off_is_named_first():
    rng = np.random.default_rng(5)
    kept = list(texts(1.0, "kept").values())
    requests = [
        request(text, rng, sure=np.where(rng.random(len(text)) < 0.25, 0.2, sure))
        for text, sure in zip(texts(1.0).values(), kept, strict=True)
    ]
    verdict = judge(of_requests(requests), predictor())
    assert first(verdict).name == "cut_off", verdict.causes
    assert "of the predicted tokens are proposed" in first(verdict).why
    without_rounds = [one.model_copy(update={"rounds": None, "accepted_at": None}) for one in requests]
    assert "cut_off" in causes(judge(of_requests(without_rounds), predictor()))


def test_another_number_of_draft_tokens_is_named_first():
    measurement = served(list(texts(1.0).values()), gamma=5, stated=Stated(temperature=1.0))
    verdict = judge(measurement, predictor())
    assert any("3 draft tokens, as in the run" in sentence for sentence in verdict.taken)
    assert first(verdict).name == "draft_length", verdict.causes
    assert first(verdict).fix == "import with --gamma 5"


def _less_accepted(share: float) -> list[RoundTotals]:
    rng = np.random.default_rng(7)
    return [request(np.where(rng.random(len(text)) < share, 0.0, text), rng) for text in texts(1.0).values()]


def test_rounded_weights_are_named_first_where_they_are_known():
    stated = Stated(temperature=1.0, gamma=GAMMA, weights="Q4_K_M")
    verdict = judge(of_requests(_less_accepted(0.2), stated=stated), predictor())
    assert first(verdict).name == "weights", verdict.causes
    assert "Q4_K_M" in first(verdict).why
    unrounded = Stated(temperature=1.0, gamma=GAMMA, weights="BF16")
    assert "weights" not in causes(judge(of_requests(_less_accepted(0.2), stated=unrounded), predictor()))


def test_other_prompts_are_named_first_where_they_are_known():
    measurement = of_requests(_less_accepted(0.25)).model_copy(update={"prompts_hash": "f" * 64})
    verdict = judge(measurement, predictor())
    assert first(verdict).name == "prompts", verdict.causes
    same = measurement.model_copy(update={"prompts_hash": predictor().conditions.heldout_hash})
    (cause,) = [cause for cause in judge(same, predictor()).causes if cause.name == "prompts"]
    assert "chat template" in cause.why
    assert cause.weight < first(verdict).weight


def test_longer_contexts_are_named_first_where_answers_are_longer():
    rng = np.random.default_rng(9)
    requests = []
    for text in texts(1.0).values():
        long = np.concatenate([text] * 4)
        fading = np.linspace(0.0, 0.5, len(long))
        requests.append(request(np.where(rng.random(len(long)) < fading, 0.0, long), rng))
    verdict = judge(of_requests(requests), predictor())
    assert first(verdict).name == "context", verdict.causes


def test_what_cannot_be_compared_is_open_and_says_what_to_do():
    measurement = served(list(texts(1.0).values()))
    unknown = measurement.model_copy(update={"temperature": math.nan})
    assert (judge(unknown, predictor()).outcome, judge(unknown, predictor()).fix[:12]) == ("open", "import it ag")
    between = measurement.model_copy(update={"temperature": 0.7})
    assert "0 and 1, not at 0.7" in judge(between, predictor()).sentence
    one = of_requests([request(next(iter(texts(1.0).values())), np.random.default_rng(0))])
    assert judge(one, predictor()).figures[0].basis == "rounds"
    silent = measurement.model_copy(update={"totals": RoundTotals(requests=3), "per_request": []})
    assert judge(silent, predictor()).sentence == "the server counts nothing that was predicted"


def test_how_an_unknown_server_proposes_is_open_and_not_taken_for_its_default():
    served_by = {"server": "somebody's engine"}
    verdict = judge(served(list(texts(1.0).values())).model_copy(update=served_by), predictor())
    assert (verdict.outcome, verdict.figures) == ("open", ())
    assert "somebody's engine proposes" in verdict.sentence
    assert "--proposals" in verdict.fix
    stated = served(list(texts(1.0).values()), stated=Stated(temperature=1.0, gamma=GAMMA, proposals="argmax"))
    at_0 = served(list(texts(0.0).values()), stated=Stated(temperature=0.0, gamma=GAMMA))
    for known in (stated, at_0):
        verdict = judge(known.model_copy(update=served_by), predictor())
        assert verdict.outcome == "agrees", verdict.sentence
        assert ["is not known here" in sentence for sentence in verdict.taken] == [True]


@pytest.mark.parametrize("gamma", [0, -1, 10**9])
def test_a_number_of_draft_tokens_that_no_proposal_has_is_open(gamma: int):
    edited = served(list(texts(1.0).values())).model_copy(update={"num_draft_tokens": gamma})
    verdict = judge(edited, predictor())
    assert (verdict.outcome, "--gamma" in verdict.fix) == ("open", True)


def test_a_measurement_by_an_earlier_version_says_what_to_run():
    earlier = predictor().__class__("old", predictor().conditions, predictor().positions.drop(columns="hit"))
    verdict = judge(served(list(texts(1.0).values())), earlier)
    assert (verdict.outcome, verdict.fix) == ("open", "measure it again: draftbench measure old")
    assert judge(served(list(texts(0.0).values()), stated=Stated(temperature=0.0, gamma=GAMMA)), earlier).outcome == (
        "agrees"
    )


def test_a_verdict_is_json():
    document = judge(served(list(texts(1.0, "kept").values())), predictor()).document()
    assert json.loads(json.dumps(document))["causes"][0]["name"] == "sampling_rule"
    assert document["figures"][0]["agrees"] is False


def test_requests_are_added_up():
    parts = [RoundTotals(requests=1, rounds=2, accepted_at=[1, 1]), RoundTotals(requests=1, rounds=1, emitted=3)]
    assert added(parts) == RoundTotals(requests=2, rounds=3)
    assert added([]) == RoundTotals()
    assert ServedMeasurement().totals.tokens_per_round != ServedMeasurement().totals.tokens_per_round  # NaN
