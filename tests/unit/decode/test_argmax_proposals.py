"""Argmax proposals: the draft's likeliest token at any temperature, kept with p of it, replaced by anything but it."""

import itertools
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from engine.decode.acceptance_rule import judge, judge_rows
from engine.decode.events import Fate
from engine.decode.sampling import Sampling, one_hot
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import speculative_decode
from engine.models.draft import trim
from tests.conftest import tiny_llama
from tests.tiny_pair import as_draft, loaded, noisy_copy

torch.set_num_threads(1)
TARGET, DRAFT = tiny_llama(), noisy_copy()
PROMPTS = [[5, 6, 7], [8] * 9, [200], [3] * 20]
SETTINGS = DecodeSettings(Sampling(0.2), FixedLength(3), 30, frozenset({1}), proposals="argmax")


def decode(draft=DRAFT, settings=SETTINGS, **more):
    return list(speculative_decode(TARGET, draft, PROMPTS, settings, **more))


def told(rounds):
    return [(r.row, r.number, r.finish_reason, [(t.token_id, t.fate, t.uniform) for t in r.tokens]) for r in rounds]


def test_the_emitted_token_follows_the_target_exactly():
    """Every part of both uniform numbers: p is in tenths, what is left of it without token 3 in sixths."""
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.0, 0.0, 0.0, 1.0])
    law = Counter()
    for u, v in itertools.product([(i + 0.5) / 10 for i in range(10)], [(i + 0.5) / 6 for i in range(6)]):
        verdict = judge(
            torch.stack([p, p]), q.unsqueeze(0), torch.tensor([3]), torch.tensor([u, v], dtype=torch.float64)
        )
        law[3 if verdict.accepted else verdict.next_token] += Fraction(1, 60)
    assert [law[i] for i in range(4)] == [Fraction(i + 1, 10) for i in range(4)]


def test_a_batch_is_judged_as_its_rows_are():
    generator = torch.Generator().manual_seed(0)
    p = torch.softmax(torch.randn(40, 4, 300, generator=generator) * 3, -1)
    ids = torch.where(torch.rand(40, 3, generator=generator) < 0.7, p[:, :3].argmax(-1), 7)
    uniforms = torch.rand(40, 4, dtype=torch.float64, generator=generator)
    verdicts = judge_rows(p, one_hot(ids, 300), ids, uniforms, torch.full((40,), 3))
    refusals = 0
    for row in range(40):
        alone = judge(p[row], one_hot(ids[row], 300), ids[row], uniforms[row])
        assert (int(verdicts.accepted[row]), int(verdicts.next_tokens[row])) == (alone.accepted, alone.next_token)
        if alone.refused:
            assert alone.next_token != ids[row, alone.accepted]
            refusals += 1
    assert refusals > 5
    torch.testing.assert_close(verdicts.overlaps, verdicts.target_prob)
    assert (verdicts.draft_prob == 1).all()


@pytest.mark.slow
def test_every_proposal_is_the_drafts_likeliest_and_is_judged_by_p_of_it():
    rounds = decode(alternatives=2)
    fates = Counter(t.fate for r in rounds for t in r.tokens)
    assert min(fates[fate] for fate in Fate) > 0, fates
    texts = [list(ids) for ids in PROMPTS]
    for item in rounds:
        context = texts[item.row]
        for token in item.tokens[: item.drafted]:
            with torch.no_grad():
                assert token.token_id == int(DRAFT(input_ids=torch.tensor([context])).logits[0, -1].argmax())
            assert token.draft_prob == 1
            context = [*context, token.token_id]
            if token.fate in (Fate.ACCEPTED, Fate.REJECTED):
                assert token.overlap == pytest.approx(token.target_prob, abs=1e-7)
                assert (token.uniform < token.target_prob) == (token.fate is Fate.ACCEPTED)
                assert {a.draft_prob for a in token.alternatives} == {0.0, 1.0}
        corrected = [t for t in item.tokens if t.fate is Fate.CORRECTED]
        for token in corrected:
            assert token.token_id != item.tokens[item.accepted].token_id
            assert token.draft_prob == 0
        texts[item.row] += item.emitted


@pytest.mark.slow
def test_at_temperature_zero_the_two_are_one():
    greedy = replace(SETTINGS, sampling=Sampling(0.0))
    assert told(decode(settings=greedy)) == told(decode(settings=replace(greedy, proposals="sampled")))


@pytest.mark.slow
def test_above_it_they_are_not():
    assert told(decode()) != told(decode(settings=replace(SETTINGS, proposals="sampled")))


@pytest.mark.slow
def test_a_row_does_not_depend_on_the_rows_beside_it():
    together = decode()
    for row, ids in enumerate(PROMPTS):
        alone = list(speculative_decode(TARGET, DRAFT, [ids], SETTINGS, names=[str(row)]))
        assert [t[1:] for t in told(alone)] == [t[1:] for t in told(r for r in together if r.row == row)]


@pytest.mark.slow
def test_a_trimmed_draft_proposes_the_likeliest_of_the_ids_that_it_has():
    kept = torch.arange(2, 258, 3)
    draft = trim(as_draft(noisy_copy()), loaded(TARGET), kept).model
    proposed = {t.token_id for r in decode(draft) for t in r.tokens[: r.drafted]}
    assert proposed <= set(kept.tolist())
    assert len(proposed) > 3


def test_without_a_draft_nothing_is_proposed():
    plain = list(speculative_decode(TARGET, None, PROMPTS, SETTINGS))
    sampled = list(speculative_decode(TARGET, None, PROMPTS, replace(SETTINGS, proposals="sampled")))
    assert told(plain) == told(sampled)
