"""A row of a report on the tiny pair: it agrees with a server that is right, and says where one is wrong."""

from __future__ import annotations

import math
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from engine.decode.sampling import Sampling
from engine.deploy.answer_log import AnswerLog
from engine.deploy.parity import requests, timed_requests
from engine.deploy.parity_rows import Case, parity_row, served_measurement, with_speed
from engine.deploy.parity_texts import Walk, hits, parted, predicted
from engine.deploy.server_rounds import ServerRule
from engine.deploy.serving import Asked, ServedAnswer
from engine.measure.acceptance import exact_acceptance
from engine.models.head import Head
from engine.records.parity import ParityReport
from engine.records.served import RoundTotals
from tests.conftest import tiny_llama
from tests.tiny_pair import as_draft, blend, captured, draft_of, loaded, stopping_target

WALK = Walk(gamma=3, limit=9, rule=ServerRule(stops_at_limit=True))


@pytest.fixture(scope="module")
def target():
    return stopping_target()


@pytest.fixture(scope="module")
def draft(target):
    return as_draft(blend(tiny_llama(), tiny_llama(seed=1), 0.15))


def served_from(case: Case, draft, target, walk: Walk = WALK, **changes) -> list[ServedAnswer]:
    """What a server without fault would answer: the captured texts, counted by the draft on them."""
    answers = []
    for number, one in enumerate(case.answers):
        tokens = one.token_ids[: walk.limit]
        own = walk.over(hits(draft, one.prompt_ids, tokens, target.vocab_rows))
        totals = RoundTotals(
            requests=1,
            rounds=int(own.rounds),
            proposed=int(own.proposed),
            accepted=int(own.accepted),
            accepted_at=[int(count) for count in own.accepted_at],
            emitted=len(tokens),
        )
        answer = ServedAnswer(one.prompt_id, case.temperature, list(tokens), totals, 0.5 + 0.1 * number)
        answers.append(replace(answer, **changes))
    return answers


def case_at(tmp_path: Path, target, draft, temperature: float) -> Case:
    capture = captured(tmp_path, target, temperature=temperature)
    rounds = predicted(draft, target, capture, capture.answers, temperature, "argmax", WALK)
    return Case(temperature, "argmax", list(capture.answers), rounds)


def test_a_server_without_fault_agrees_at_both_temperatures(tmp_path: Path, target, draft):
    for temperature in (0.0, 1.0):
        case = case_at(tmp_path, target, draft, temperature)
        row = parity_row(case, served_from(case, draft, target), WALK, draft, target)
        assert 0 <= row.served.value < 1
        assert row.agrees
        assert row.explained == row.prompts == 6
        assert row.recounted == pytest.approx(row.served.value)
        assert row.difference.value == pytest.approx(0, abs=1e-9)
        assert [at.value for at in row.served_at] == pytest.approx([at.value for at in row.predicted_at])
        if temperature == 0:
            assert row.same_text == 6
            assert math.isnan(row.calibration_z)
        else:
            assert abs(row.calibration_z) < 4


def test_counts_of_another_draft_are_not_explained(tmp_path: Path, target, draft):
    case = case_at(tmp_path, target, draft, 0.0)
    answers = served_from(case, as_draft(tiny_llama()), target)  # the target as its own draft: all is kept
    row = parity_row(case, answers, WALK, draft, target)
    assert row.explained is not None
    assert row.explained < row.prompts
    assert not row.agrees
    assert "outside the predicted interval" in row.verdict


def test_text_that_is_not_drawn_from_the_target_is_called_that(tmp_path: Path, target, draft):
    case = case_at(tmp_path, target, draft, 1.0)
    draw = random.Random(0)
    answers = [
        replace(answer, token_ids=[draw.randrange(258) for _ in range(400)])
        for answer in served_from(case, draft, target)
    ]
    row = parity_row(case, answers, WALK, draft, target)
    assert abs(row.calibration_z) >= 4
    assert "not drawn from the target's distribution" in row.verdict


def test_where_greedy_texts_part_the_margin_is_the_targets_own(target):
    prompt, ours = [0, 70, 71], [80, 81, 82, 83]
    logits = target.model(input_ids=torch.tensor([prompt + ours])).logits[0, len(prompt) + 1]
    text = parted(target, "p", prompt, ours, [80, 81, 99, 83])
    assert text is not None
    assert text.position == 2
    assert text.margin == pytest.approx(abs(float(logits[82] - logits[99])), abs=1e-5)
    assert text.largest == pytest.approx(float(logits.max() - min(logits[82], logits[99])), abs=1e-5)
    assert parted(target, "p", prompt, ours, list(ours)) is None


def test_hits_are_those_of_the_exact_pass_also_for_a_trimmed_draft(tmp_path: Path, target):
    capture = captured(tmp_path, target)
    for draft in (draft_of(target), draft_of(target, vocabulary=64)):
        exact = exact_acceptance(draft.model, Head.of(target.model), capture, Sampling(0.0))
        for answer, result in zip(capture.answers, exact, strict=True):
            own = hits(draft, answer.prompt_ids, answer.token_ids, target.vocab_rows)
            assert own == result.hit.double().tolist()


def test_drawn_proposals_are_predicted_by_p_and_q(tmp_path: Path, target, draft):
    """A draft that is the target is never refused, whatever it draws."""
    capture = captured(tmp_path, target, temperature=1.0)
    itself = loaded(tiny_llama())
    rounds = predicted(as_draft(itself.model), target, capture, capture.answers, 1.0, "sampled", WALK)
    assert sum(one.accepted for one in rounds) == pytest.approx(
        sum(one.proposed - one.open for one in rounds), rel=5e-3
    )
    other = predicted(draft, target, capture, capture.answers, 1.0, "sampled", WALK)
    assert 0 < sum(one.accepted for one in other) < sum(one.proposed - one.open for one in other)


def test_speed_is_of_the_prompts_that_were_timed_both_ways(tmp_path: Path, target, draft):
    case = case_at(tmp_path, target, draft, 0.0)
    drafted = served_from(case, draft, target)
    plain = [replace(answer, totals=None, seconds=2 * (answer.seconds or 0)) for answer in drafted[:4]]
    row = parity_row(case, drafted, WALK, draft, target)
    timed = with_speed(row, drafted, plain, 1.5)
    assert timed.speedup is not None
    assert timed.speedup.value == pytest.approx(2)
    assert timed.speedup.n_prompts <= 4
    assert timed.predicted_speedup == pytest.approx(row.predicted_tokens_per_round.value / 1.5)
    assert math.isnan(with_speed(row, drafted, plain, math.nan).predicted_speedup)
    assert with_speed(row, drafted, [], 1.5) == row
    stored = served_measurement(ParityReport(server="llama.cpp", num_draft_tokens=3), timed, case, drafted)
    assert stored.totals.accepted == sum(answer.totals.accepted or 0 for answer in drafted if answer.totals)
    assert stored.tokens_per_s == timed.tokens_per_s


def test_requests_go_prompt_by_prompt_and_the_first_are_timed(tmp_path: Path, target, draft):
    cases = [case_at(tmp_path, target, draft, temperature) for temperature in (0.0, 1.0)]
    asked = requests(cases, "argmax", 9)
    assert [(one.prompt_id, one.temperature) for one in asked[:3]] == [("q0", 0), ("q0", 1), ("q1", 0)]
    assert len({one.seed for one in asked}) == 6
    assert timed_requests(cases, "argmax", 9, 2) == asked[:4]
    assert timed_requests(cases, "argmax", 9, 0) == []
    assert requests(cases, "sampled", 9) == []


def test_answers_are_kept_by_what_was_asked_of_which_server(tmp_path: Path):
    path = tmp_path / "kept" / "answers.jsonl"
    asked = Asked("p", (1, 2), 0.0, 9, 1)
    answer = ServedAnswer("p", 0.0, [5, 6], RoundTotals(rounds=1, proposed=3, accepted=0, accepted_at=[0, 0, 0]), None)
    AnswerLog(path, ["vllm", 3]).add("argmax", asked, answer, timed=False)
    with open(path, "a") as file:
        file.write('{"key": "torn')
    again = AnswerLog(path, ["vllm", 3])
    assert again.get("argmax", asked, timed=False) == answer
    assert again.get("sampled", asked, timed=False) is None
    assert again.get("argmax", asked, timed=True) is None
    assert again.get("argmax", replace(asked, limit=8), timed=False) is None
    assert AnswerLog(path, ["vllm", 4]).get("argmax", asked, timed=False) is None
    other = replace(asked, prompt_id="r")
    again.add("argmax", other, answer, timed=False)  # after the torn line
    assert AnswerLog(path, ["vllm", 3]).get("argmax", other, timed=False) == answer
    assert AnswerLog(None, []).get("argmax", asked, timed=False) is None
