"""Rounds over a text: walked by hand, against the loop's own fates, and against fates drawn one by one."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
import torch

from engine.decode.counts import count
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.distill.modes.online import replay_fates
from engine.errors import DraftbenchError
from engine.measure.acceptance import PromptAcceptance, exact_acceptance
from engine.measure.exact_tables import position_rows
from engine.measure.statistics import bootstrap_ratio
from engine.measure.text_rounds import (
    TextRounds,
    for_other_texts,
    predicted_rates,
    predicted_rounds,
    rounds_over,
)
from engine.models.head import Head
from engine.records.interval import Interval
from tests.tiny_pair import captured, noisy_copy, stopping_target

torch.set_num_threads(1)
HITS = [True, True, False, True, True, True, True, False]
LIMIT = 12


def test_a_round_keeps_the_hits_before_the_first_miss_and_the_targets_own_token():
    # T T F: two kept and the target's own; T T T: three kept and the target's own, which is T; F: the target's own
    assert rounds_over(HITS, 3, limit=8) == TextRounds(3, 6, 5, (2, 2, 1), 8, empty=1)


def test_a_text_of_one_token_at_the_limit_is_the_targets_own():
    assert rounds_over([True], 4, limit=1) == TextRounds(1, 0, 0, (0, 0, 0, 0), 1, empty=1)


def test_a_text_that_ended_by_itself_is_proposed_past_its_end():
    # the last F stands where three are proposed, though one is left
    assert rounds_over(HITS, 3, limit=20) == TextRounds(3, 9, 5, (2, 2, 1), 8)
    # two left of the limit behind the text: the draft does not know that it ended, the loop knows the limit
    assert rounds_over(HITS, 3, limit=10) == TextRounds(3, 8, 5, (2, 2, 1), 8)
    # an accepted stop token ends the answer, and no token of the target's own follows
    assert rounds_over([True, True], 3, limit=20) == TextRounds(1, 3, 2, (1, 1, 0), 2, open=1)


def test_a_server_that_does_not_look_at_its_limit_proposes_gamma_to_the_end():
    assert rounds_over(HITS, 3, limit=None) == TextRounds(3, 9, 5, (2, 2, 1), 8)
    assert rounds_over([True], 4, limit=None) == TextRounds(1, 4, 1, (1, 0, 0, 0), 1, open=3)


@pytest.mark.parametrize(("gamma", "limit", "words"), [(0, 8, "at least 1"), (2, 7, "longer than the limit")])
def test_senseless_numbers_are_refused(gamma, limit, words):
    with pytest.raises(ValueError, match=words):
        rounds_over(HITS, gamma, limit=limit)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A target whose answers end by themselves or at the limit, its answers at two temperatures, and a draft."""
    target = stopping_target()
    folder = tmp_path_factory.mktemp("text-rounds")
    return target, noisy_copy(), {t: captured(folder / str(t), target, temperature=t, seed=3) for t in (0.0, 1.0)}


def as_counted(rounds, gamma):
    """What the loop did to one prompt, in the words of the walk."""
    counts = count(rounds)
    at = tuple(sum(r.accepted > place for r in rounds) for place in range(gamma))
    empty = sum(not r.drafted for r in rounds)
    # after an accepted stop token nothing of the target's own follows: what was proposed behind it is open
    unknown = sum(r.discarded for r in rounds if r.accepted == len(r.emitted))
    return TextRounds(counts.rounds, counts.drafted, counts.accepted, at, counts.emitted, empty, unknown)


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [1, 3, 5])
def test_the_loop_counts_at_temperature_zero_what_the_walk_says(pair, gamma):
    target, draft, captures = pair
    capture = captures[0.0]
    predicted = predicted_rounds(
        exact_acceptance(draft, Head.of(target.model), capture, Sampling(0.0)), gamma, "argmax", limit=LIMIT
    )
    settings = DecodeSettings(Sampling(0.0), FixedLength(gamma), LIMIT, target.stop_ids)
    lengths = set()
    for answer in capture.answers:
        rounds = list(speculative_decode(target.model, draft, [answer.prompt_ids], settings))
        assert [token for r in rounds for token in r.emitted] == answer.token_ids
        assert as_counted(rounds, gamma) == predicted[answer.prompt_id]
        lengths.add(len(answer.token_ids) == LIMIT)
    assert lengths == {True, False}, "texts that ended and texts that were cut"


@pytest.mark.slow
@pytest.mark.parametrize("gamma", [2, 4])
def test_the_loop_with_argmax_proposals_counts_what_the_walk_says_of_the_text_it_drew(pair, gamma):
    """Above temperature 0 the fates of argmax proposals follow from the text that came out, whatever it is."""
    target, draft, captures = pair
    settings = DecodeSettings(Sampling(0.1), FixedLength(gamma), LIMIT, target.stop_ids, seed=5, proposals="argmax")
    fates = 0
    for answer in captures[1.0].answers:
        rounds = list(speculative_decode(target.model, draft, [answer.prompt_ids], settings))
        text = [token for r in rounds for token in r.emitted]
        ids = torch.tensor([answer.prompt_ids + text])
        with torch.no_grad():
            likeliest = draft(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1].argmax(-1)
        hits = (likeliest == torch.tensor(text)).tolist()
        assert as_counted(rounds, gamma) == rounds_over(hits, gamma, limit=LIMIT)
        fates += sum(r.accepted for r in rounds)
    assert fates >= 3, "something was accepted"


def test_expectations_along_a_text_are_the_means_of_fates_drawn_for_it(pair):
    target, draft, captures = pair
    results = exact_acceptance(draft, Head.of(target.model), captures[1.0], Sampling(1.0))
    predicted = predicted_rounds(results, 3, "sampled", limit=LIMIT)
    generator, draws = torch.Generator().manual_seed(0), 3000
    for result in results[:3]:
        counted = []
        for _ in range(draws):
            uniforms = torch.rand(len(result.token_ids), dtype=torch.float64, generator=generator)
            fates = replay_fates(result, uniforms, gamma=3, limit=LIMIT)
            counted.append((fates.rounds, fates.drafted, len(fates.judged) - len(fates.wrong)))
        means, errors = np.mean(counted, 0), np.std(counted, 0) / math.sqrt(draws)
        expected = predicted[result.prompt_id]
        for mean, error, value in zip(
            means, errors, (expected.rounds, expected.proposed, expected.accepted), strict=True
        ):
            assert abs(mean - value) <= 4.5 * error + 1e-6  # nine figures: one in 50,000 seeds strays so far


def test_the_table_of_positions_says_the_same(pair):
    target, draft, captures = pair
    results = exact_acceptance(draft, Head.of(target.model), captures[1.0], Sampling(1.0))
    table = position_rows(results, "trained", 1.0).sample(frac=1, random_state=1)
    for proposals in ("argmax", "sampled"):
        of_table = predicted_rounds(table, 3, proposals, limit=LIMIT)
        of_results = predicted_rounds(results, 3, proposals, limit=LIMIT)
        assert of_table.keys() == of_results.keys()
        for name, rounds in of_table.items():
            assert rounds.accepted_at == pytest.approx(of_results[name].accepted_at, abs=1e-6)
            assert rounds.proposed == pytest.approx(of_results[name].proposed, abs=1e-6)


def test_a_table_that_cannot_say_it_is_refused(pair):
    target, draft, captures = pair
    results = exact_acceptance(draft, Head.of(target.model), captures[1.0], Sampling(1.0))
    table = position_rows(results, "trained", 1.0)
    with pytest.raises(DraftbenchError, match="likeliest token") as refused:
        predicted_rounds(table.drop(columns="hit"), 3, "argmax", limit=LIMIT)
    assert "draftbench measure" in refused.value.fix
    assert predicted_rounds(table.drop(columns="hit"), 3, "sampled", limit=LIMIT)
    with pytest.raises(DraftbenchError, match="not every token"):
        predicted_rounds(table[table.position != 1], 3, "argmax", limit=LIMIT)
    with pytest.raises(ValueError, match="more than one draft"):
        predicted_rounds(pd.concat([table, table.assign(draft="initial")]), 3, "argmax", limit=LIMIT)
    partly = PromptAcceptance(
        "x", "", [7], *[torch.ones(1)] * 2, *[torch.ones(1)] * 3, torch.ones(1, dtype=torch.bool), positions=[2]
    )
    with pytest.raises(DraftbenchError, match="not every token"):
        predicted_rounds([partly], 3, "argmax", limit=LIMIT)


def test_rates_are_ratios_of_sums_with_intervals_over_prompts(pair):
    target, draft, captures = pair
    results = exact_acceptance(draft, Head.of(target.model), captures[1.0], Sampling(1.0))
    texts = list(predicted_rounds(results, 3, "argmax", limit=LIMIT).values())
    rates, rounds = predicted_rates(texts), sum(text.rounds for text in texts)
    assert rates.per_proposed.value == pytest.approx(
        sum(text.accepted for text in texts) / sum(text.proposed for text in texts)
    )
    assert rates.tau.value == pytest.approx(sum(text.emitted for text in texts) / rounds)
    assert [place.value for place in rates.accepted_at] == pytest.approx(
        [sum(place) / rounds for place in zip(*(text.accepted_at for text in texts), strict=True)]
    )
    assert sum(place.value for place in rates.accepted_at) == pytest.approx(rates.accepted_per_round.value)
    assert rates.per_proposed == bootstrap_ratio([t.accepted for t in texts], [t.proposed for t in texts])
    with pytest.raises(ValueError, match="one gamma"):
        predicted_rates([*texts, rounds_over(HITS, 2, limit=8)])


def test_other_texts_stray_further_than_the_rate_is_known():
    interval = Interval(0.5, 0.4, 0.6, 36)
    assert for_other_texts(interval).low == pytest.approx(0.5 - 0.1 * math.sqrt(2))
    assert for_other_texts(interval, 9).high == pytest.approx(0.5 + 0.1 * math.sqrt(5))
    assert for_other_texts(Interval(0.9, 0.8, 0.99, 4)).high == 1.0
    assert math.isnan(for_other_texts(Interval(0.9)).low)
    of_one = for_other_texts(Interval(0.9, math.nan, math.nan, 1))
    assert math.isnan(of_one.low) and math.isnan(of_one.high), "no interval is not all of them"  # noqa: PT018
