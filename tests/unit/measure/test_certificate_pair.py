"""The checks of the pair itself pass for a sound engine, and fail with holes or a wrong rule let in on purpose."""

import pytest
import torch

from engine.capture.answered import AnsweredPrompt
from engine.decode import acceptance_rule, runner, slot_runner
from engine.decode.row_by_row import RowByRow
from engine.decode.sampling import Sampling
from engine.decode.settings import NO_DRAFT, DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode
from engine.measure import certificate_pair
from engine.measure.certificate import texts
from engine.measure.certificate_pair import (
    certified_prefixes,
    first_wrong,
    pair_chi_square,
    ragged_identity,
    ragged_rows,
    traced_equals_captured,
)
from engine.models.draft import trim
from tests.conftest import tiny_llama
from tests.tiny_decoders import KINDS, NEO, made, prompts
from tests.tiny_pair import as_draft, blend, loaded, noisy_copy

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
TARGET, NOISY, DRAWN = tiny_llama(), noisy_copy(), Sampling(1.0)


def ragged(target, draft, rows=None):
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), 20, frozenset({1}))
    return ragged_identity(target, draft, rows or prompts(), settings)


def neo_pair():
    return made("gpt_neo", NEO), blend(made("gpt_neo", NEO), made("gpt_neo", NEO, seed=9), 0.15)


def answered(target, rows, count=20):
    """What the target writes for each prompt alone at temperature 0."""
    settings = DecodeSettings(Sampling(0.0), NO_DRAFT, count, frozenset({1}))
    written = [texts(plain_decode(target, [ids], settings), 1)[0] for ids in rows]
    return [
        AnsweredPrompt(f"q{i}", "", ids, text, "length", 0)
        for i, (ids, text) in enumerate(zip(rows, written, strict=True))
    ]


def test_ragged_rows_side_by_side_pass():
    check = ragged(TARGET, NOISY)
    assert (check.name, check.passed) == ("ragged_identity_float32", True)
    assert check.figures["side_by_side"] == {"target": True, "draft": True}
    assert check.figures["prompt_tokens"] == [1, 3, 7, 12, 21, 30]
    assert "6 of 6 texts" in check.detail


def test_a_model_that_counts_columns_passes_and_says_how():
    check = ragged(*neo_pair())
    assert check.passed is True
    assert check.figures["side_by_side"] == {"target": False, "draft": False}
    assert "GPTNeoForCausalLM" in check.detail
    assert "a cache each" in check.detail


def test_it_fails_where_rows_share_slots_that_the_model_counts(monkeypatch):
    monkeypatch.setattr(runner, "fits_slots", lambda _: True)
    check = ragged(*neo_pair())
    assert check.passed is False
    assert check.figures["wrong"]
    assert f"{6 - len(check.figures['wrong'])} of 6" in check.detail
    assert all(found["logits"] > 0.01 for found in check.figures["wrong"])


def test_it_fails_when_a_mask_is_forgotten(monkeypatch):
    """Empty slots that a sound model would have been told of."""

    def all_seen(model, kinds, positions, view):
        return torch.ones(len(positions), 1, positions.shape[1], view, dtype=torch.bool)

    monkeypatch.setattr(slot_runner, "step_mask", all_seen)
    assert ragged(TARGET, NOISY).passed is False


def test_the_first_wrong_token_is_where_the_text_leaves_the_targets_choice():
    (answer,) = answered(TARGET, [[5, 6, 7]])
    assert first_wrong(TARGET, answer.prompt_ids, answer.token_ids) is None
    text = [*answer.token_ids[:4], (answer.token_ids[4] + 1) % 258, *answer.token_ids[5:]]
    found = first_wrong(TARGET, answer.prompt_ids, text)
    assert found["position"] == 4
    logits = TARGET(input_ids=torch.tensor([[5, 6, 7, *text[:4]]])).logits[0, -1]
    assert found["logits"] == pytest.approx(float(logits.max() - logits[text[4]]), abs=1e-4)


def test_rows_are_spread_up_to_the_median_and_ragged_even_if_there_is_one():
    some = [[1] * length for length in (5, 9, 2, 7, 30, 12)]
    assert [len(ids) for ids in ragged_rows(some, 1)] == [2, 9]
    assert [len(ids) for ids in ragged_rows(some, 3)] == [2, 5, 9]
    assert [len(ids) for ids in ragged_rows(some, 9)] == [2, 5, 7, 9]
    assert ragged_rows([[5, 6, 7]], 4) == [[6, 7], [5, 6, 7]]
    assert ragged_rows([[5]], 4) == [[5], [5]]


def test_a_trace_that_is_the_captured_text_passes():
    answers = answered(TARGET, prompts())
    check = traced_equals_captured(TARGET, answers, [a.token_ids for a in answers], exact=True)
    assert (check.passed, check.figures["parted"]) == (True, [])
    assert "6 of 6" in check.detail


@pytest.mark.parametrize("wrong", ["traced", "captured"])
def test_a_text_that_parts_fails_in_float32_whichever_is_wrong(wrong):
    answers = answered(TARGET, prompts())
    traced = [list(a.token_ids) for a in answers]
    (traced[2] if wrong == "traced" else answers[2].token_ids)[3] ^= 1
    check = traced_equals_captured(TARGET, answers, traced, exact=True)
    assert check.passed is False
    (found,) = check.figures["parted"]
    assert (found["row"], found["position"]) == (2, 3)
    assert found[f"{wrong}_is_choice"] is False
    assert sum(found[f"{name}_is_choice"] for name in ("traced", "captured")) == 1
    assert traced_equals_captured(TARGET, answers, traced, exact=False).passed is None


def chi(target=TARGET, draft=NOISY, sampling=DRAWN, seed=0, draws=600, proposals="sampled"):
    return pair_chi_square(target, draft, prompts(4), sampling, draws=draws, seed=seed, proposals=proposals)


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7), Sampling(1.0, 20), Sampling(1.0, 0, 0.8)], ids=str)
def test_the_chi_square_of_the_pair_passes(sampling):
    check = chi(sampling=sampling)
    assert (check.name, check.passed, check.n_tokens) == ("chi_square_pair", True, 2_400)
    assert 0.1 < check.figures["acceptance"] < 0.95
    assert check.figures["freedom"] > 4
    assert check.figures["impossible"] == 0


@pytest.mark.parametrize("sampling", [Sampling(0.2), Sampling(0.5, 20), Sampling(0.3, 0, 0.8)], ids=str)
def test_the_chi_square_passes_with_argmax_proposals_and_fails_without_their_residual(monkeypatch, sampling):
    check = chi(sampling=sampling, proposals="argmax")
    assert check.passed is True
    assert check.figures["acceptance"] > 0.05
    assert "argmax proposals" in check.detail
    monkeypatch.setattr(acceptance_rule, "residual", lambda p, q: p)  # the refused token may come back
    assert chi(sampling=sampling, proposals="argmax").passed is False


@pytest.mark.parametrize("name", ["falcon-alibi", "gpt2"])
def test_the_chi_square_passes_for_other_families(name):
    target = made(name, KINDS[name])
    assert chi(target, blend(made(name, KINDS[name]), made(name, KINDS[name], seed=9), 0.15)).passed


def test_the_chi_square_passes_for_a_draft_of_a_trimmed_vocabulary():
    target = loaded(TARGET)
    draft = trim(as_draft(noisy_copy()), target, torch.arange(2, 258, 3)).model
    check = chi(draft=draft)
    assert check.passed is True
    assert check.figures["acceptance"] < 0.5


def test_its_p_values_are_spread_as_those_of_a_true_law():
    values = [chi(seed=seed, draws=100).figures["p_value"] for seed in range(30)]
    assert sum(value < 0.5 for value in values) in range(5, 26)  # 15 of 30 are expected, 2.7 the standard deviation
    assert min(values) > 1e-4


def test_its_seed_is_that_of_the_run():
    assert chi(seed=1).figures == chi(seed=1).figures
    assert chi(seed=1).figures["statistic"] != chi(seed=2).figures["statistic"]


def accept_all(target_prob, draft_prob, uniforms, gammas):
    return gammas


def refuse_all(target_prob, draft_prob, uniforms, gammas):
    return torch.zeros_like(gammas)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("residual", lambda p, q: p),
        ("residual", lambda p, q: torch.full_like(p, 1 / p.shape[-1])),
        ("kept_before_refusal", accept_all),
        ("kept_before_refusal", refuse_all),
    ],
    ids=["residual is p", "residual is anything", "all accepted", "all refused"],
)
def test_it_fails_with_a_wrong_rule(monkeypatch, name, wrong):
    monkeypatch.setattr(acceptance_rule, name, wrong)
    check = chi()
    assert check.passed is False
    assert check.figures["p_value"] < 1e-6


def test_it_fails_where_q_is_not_the_distribution_that_was_drawn_from(monkeypatch):
    own = certificate_pair.draw
    monkeypatch.setattr(certificate_pair, "draw", lambda probs, uniforms: own(probs**3, uniforms))
    assert chi().passed is False


def test_it_fails_where_holes_change_the_targets_distribution(monkeypatch):
    target, draft = neo_pair()
    assert chi(target, draft).passed is True
    monkeypatch.setattr(RowByRow, "feed", _with_other_tokens(RowByRow.feed))
    assert chi(target, draft).passed is False


def _with_other_tokens(feed):
    return lambda self, pending, *, last: feed(self, [[*ids[:-1], ids[-1] ^ 1] for ids in pending], last=last)


def test_a_token_outside_the_targets_nucleus_is_impossible(monkeypatch):
    monkeypatch.setattr(acceptance_rule, "kept_before_refusal", accept_all)
    check = chi(sampling=Sampling(1.0, 0, 0.3))
    assert check.figures["impossible"] > 0
    assert check.figures["p_value"] == 0


def test_a_draft_identical_to_its_target_passes():
    assert chi(TARGET, TARGET).passed is True


def test_a_place_is_drawn_in_each_answer():
    answers = answered(TARGET, prompts())
    found = certified_prefixes(answers, 4, seed=3)
    shortest = sorted(answers, key=lambda answer: len(answer.prompt_ids))
    assert len(found) == 4
    for prefix, answer in zip(found, shortest, strict=False):
        assert prefix[: len(answer.prompt_ids)] == answer.prompt_ids
        assert prefix == [*answer.prompt_ids, *answer.token_ids][: len(prefix)]
        assert len(prefix) < len(answer.prompt_ids) + len(answer.token_ids)
    assert certified_prefixes(answers, 4, seed=3) == found != certified_prefixes(answers, 4, seed=4)
    assert [len(certified_prefixes(answers, rows, seed=3)) for rows in (1, 6, 9)] == [2, 6, 6]
