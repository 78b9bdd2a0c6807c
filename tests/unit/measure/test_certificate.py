"""The certificate passes for a sound engine and fails for one with a wrong rule put in on purpose."""

import copy
import itertools
from dataclasses import replace

import pytest
import torch

from engine.decode import acceptance_rule, speculative
from engine.decode.sampling import Sampling
from engine.decode.settings import DecodeSettings, FixedLength
from engine.measure import certificate
from engine.measure.certificate import chi_square, greedy_identity, self_draft, texts
from tests.conftest import tiny_llama
from tests.tiny_pair import noisy_copy

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
TARGET, NOISY = tiny_llama(), noisy_copy()
PROMPTS = [[5, 6, 7], [8] * 9, [200]]
SHORT = DecodeSettings(Sampling(0.0), FixedLength(3), 10, frozenset())


def accept_all(target_prob, draft_prob, uniforms, gammas):
    """A wrong rule: whatever the draft says is kept."""
    return gammas


def test_chi_square_passes():
    check = chi_square(tokens=6_000)
    assert check.passed is True
    assert check.figures["p_value"] > 0.01
    assert 0.2 < check.figures["acceptance"] < 0.8  # accepted, corrected and bonus tokens all took part
    assert check.n_tokens == 6_000


@pytest.mark.parametrize("proposals", ["sampled", "argmax"])
@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("residual", lambda p, q: p),
        ("kept_before_refusal", accept_all),
    ],
)
def test_chi_square_fails_with_a_wrong_rule(monkeypatch, name, wrong, proposals):
    monkeypatch.setattr(acceptance_rule, name, wrong)
    check = chi_square(tokens=6_000, proposals=proposals)
    assert check.passed is False
    assert check.figures["p_value"] < 1e-6


def test_chi_square_passes_with_argmax_proposals():
    check = chi_square(tokens=6_000, proposals="argmax")
    assert check.passed is True
    assert check.figures["p_value"] > 0.01
    assert 0.1 < check.figures["acceptance"] < 0.6
    assert "argmax proposals" in check.detail
    assert chi_square(tokens=6_000).figures["acceptance"] != check.figures["acceptance"]


def test_chi_square_cells_are_the_targets_own_probabilities():
    model = certificate.tiny_model(3, seed=1)
    cells = list(itertools.product(range(3), repeat=2))
    found = certificate._text_probabilities(model, [1, 2], cells, Sampling(1.0))
    for cell, probability in zip(cells, found.tolist(), strict=True):
        expected, text = 1.0, [1, 2]
        for token in cell:
            expected *= float(torch.softmax(model(input_ids=torch.tensor([text])).logits[0, -1].double(), -1)[token])
            text.append(token)
        assert probability == pytest.approx(expected, abs=1e-6)


def test_rare_cells_are_pooled_and_none_is_lost():
    counts, expected = torch.tensor([10.0, 1.0, 7.0, 2.0]), torch.tensor([9.0, 2.0, 6.0, 3.0])
    pooled = certificate.pool_rare(counts, expected)
    assert [t.tolist() for t in pooled] == [[10, 7, 3], [9, 6, 5]]
    assert [t.tolist() for t in certificate.pool_rare(counts[:1], expected[:1])] == [[10], [9]]


def test_rare_cells_that_are_rare_together_join_another():
    counts, expected = torch.tensor([10.0, 8.0, 2.0, 1.0]), torch.tensor([12.0, 6.0, 1.0, 2.0])
    assert [t.tolist() for t in certificate.pool_rare(counts, expected)] == [[10, 11], [12, 9]]
    assert [t.tolist() for t in certificate.pool_rare(counts[2:], expected[2:])] == [[3], [3]]


def test_a_draft_identical_to_its_target_passes():
    check = self_draft(TARGET, PROMPTS, SHORT)
    assert check.passed is True
    assert len(check.figures["rejected"]) == len(certificate.SELF_DRAFT_SETTINGS) == 12
    # 10 tokens with gamma 3: 3 + 1, 3 + 1, 1 + 1
    assert check.n_tokens == 12 * len(PROMPTS) * 7


ARGMAX = replace(SHORT, proposals="argmax")


def test_a_draft_identical_to_its_target_passes_with_argmax_proposals():
    """Above temperature 0 it is refused, as often as p of its proposals says."""
    check = self_draft(TARGET, PROMPTS, replace(ARGMAX, max_new_tokens=24))
    assert check.passed is True
    rejected = check.figures["rejected"]
    assert not any(count for name, count in rejected.items() if name.startswith("T=0 "))
    assert all(count for name, count in rejected.items() if name.startswith("T=1 "))
    assert check.figures["came_back"] == 0
    assert 0 < check.figures["expected"] < check.n_tokens
    assert abs(check.figures["z"]) < 4


def test_the_argmax_self_draft_counts_independent_draws():
    """Its z is standard normal over seeds: with the same draws under every setting it would be twice as wide."""
    brief = replace(ARGMAX, max_new_tokens=4)
    scores = [self_draft(TARGET, PROMPTS, replace(brief, seed=seed)).figures["z"] for seed in range(40)]
    assert 0.7 < float(torch.tensor(scores).std()) < 1.4


def test_the_argmax_self_draft_fails_where_the_refused_token_may_come_back(monkeypatch):
    monkeypatch.setattr(acceptance_rule, "residual", lambda p, q: p)
    check = self_draft(TARGET, PROMPTS, replace(ARGMAX, max_new_tokens=24))
    assert check.passed is False
    assert check.figures["came_back"] > 0


def test_the_argmax_self_draft_fails_where_tokens_are_kept_too_often(monkeypatch):
    rule = acceptance_rule.kept_before_refusal
    monkeypatch.setattr(acceptance_rule, "kept_before_refusal", lambda p, q, u, gammas: rule(p, q, u / 3, gammas))
    check = self_draft(TARGET, PROMPTS, replace(ARGMAX, max_new_tokens=24), [Sampling(0.0), Sampling(0.3)])
    assert check.passed is False
    assert check.figures["z"] > 4


def test_the_argmax_self_draft_fails_where_another_token_is_proposed(monkeypatch):
    likeliest = speculative.likeliest
    monkeypatch.setattr(speculative, "likeliest", lambda logits: likeliest(logits if logits.dim() == 3 else -logits))
    check = self_draft(TARGET, PROMPTS, ARGMAX)
    assert check.passed is False


def test_self_draft_fails_where_q_is_not_what_was_sampled(monkeypatch):
    sharpened = speculative.align_logits
    monkeypatch.setattr(speculative, "align_logits", lambda logits, rows: 0.5 * sharpened(logits, rows))
    check = self_draft(TARGET, PROMPTS, SHORT, [Sampling(0.0), Sampling(1.0)])
    assert check.passed is False
    assert check.figures["rejected"]["T=0 top_k=0 top_p=1"] == 0  # half the logits have the same argmax
    assert check.figures["rejected"]["T=1 top_k=0 top_p=1"] > 0


def test_settings_decoded_together_write_what_each_writes_alone():
    """Else the self-draft would try other rules than those that are decoded with."""
    rows = [(sampling, ids) for sampling in certificate.SELF_DRAFT_SETTINGS for ids in PROMPTS]
    by_row = certificate.SamplingByRow(rows=tuple(sampling for sampling, _ in rows))
    names = [str(row % len(PROMPTS)) for row in range(len(rows))]
    settings, prompts = replace(SHORT, sampling=by_row), [ids for _, ids in rows]
    written = texts(certificate.speculative_decode(TARGET, TARGET, prompts, settings, names=names), len(rows))
    for number, sampling in enumerate(certificate.SELF_DRAFT_SETTINGS):
        alone = texts(
            certificate.speculative_decode(TARGET, TARGET, PROMPTS, replace(SHORT, sampling=sampling)), len(PROMPTS)
        )
        assert written[number * len(PROMPTS) : (number + 1) * len(PROMPTS)] == alone, sampling
    assert len({tuple(text) for text in written}) > 2 * len(PROMPTS)


def test_the_self_draft_does_not_depend_on_how_many_rows_are_decoded_together(monkeypatch):
    whole = self_draft(TARGET, PROMPTS, SHORT)
    monkeypatch.setattr(certificate, "_SELF_DRAFT_ROWS", 7)
    assert self_draft(TARGET, PROMPTS, SHORT) == whole
    monkeypatch.setattr(certificate, "_SELF_DRAFT_ROWS", 1)
    assert self_draft(TARGET, PROMPTS, SHORT) == whole


@pytest.mark.parametrize("sampling", certificate.SELF_DRAFT_SETTINGS[4:], ids=str)
def test_the_self_draft_fails_where_one_setting_alone_is_wrong(monkeypatch, sampling):
    """The draft is asked for another temperature than the target, in the rows of one setting."""
    distribution, wrong = speculative.distribution, replace(sampling, temperature=3.0)

    def distorted(logits, by_row):
        of_the_draft = logits.dim() == 2  # the target's have a dimension for the positions
        rows = tuple(wrong if of_the_draft and own == sampling else own for own in by_row.rows)
        return distribution(logits, replace(by_row, rows=rows))

    monkeypatch.setattr(speculative, "distribution", distorted)
    check = self_draft(TARGET, PROMPTS, replace(SHORT, max_new_tokens=24))
    assert check.passed is False
    assert [name for name, count in check.figures["rejected"].items() if count] == [certificate._in_words(sampling)]


def test_greedy_identity_in_float32():
    check = greedy_identity(TARGET, NOISY, PROMPTS, SHORT)
    assert (check.name, check.passed, check.n_tokens) == ("greedy_identity_float32", True, 30)
    assert check.figures == {"dtype": "float32", "parted": []}


def test_a_text_of_the_targets_own_choices_is_not_decoded_plainly_as_well(monkeypatch):
    decoded = []
    plainly = certificate.plain_decode
    monkeypatch.setattr(certificate, "plain_decode", lambda *args: decoded.append(args) or plainly(*args))
    assert greedy_identity(TARGET, NOISY, PROMPTS, SHORT).passed is True
    assert decoded == []
    monkeypatch.setattr(certificate, "_is_greedy", lambda *_: False)
    assert greedy_identity(TARGET, NOISY, PROMPTS, SHORT).passed is True
    assert len(decoded) == len(PROMPTS)


@pytest.mark.parametrize(
    ("text", "proven"),
    [((40, 41, 42), True), ((40, 41), False), ((40, 43, 42), False), ((40, 2), True), ((2, 41, 42), False)],
    ids=["whole", "too short", "another token", "ended", "went on after its end"],
)
def test_a_text_is_proven_by_its_tokens_and_its_end(monkeypatch, text, proven):
    choices = torch.tensor([40, 41, 42]) if text[1] != 2 else torch.tensor([40, 2, 42])
    choices = torch.tensor([2, 41, 42]) if text[0] == 2 else choices
    logits = torch.nn.functional.one_hot(choices, 50).float()
    monkeypatch.setattr(certificate, "target_logits", lambda target, prompt, written: logits[: len(written)])
    settings = DecodeSettings(Sampling(0.0), FixedLength(3), 3, frozenset({2}))
    assert certificate._is_greedy(None, [1], text, settings) is proven


def test_greedy_identity_fails_in_float32_with_a_wrong_rule(monkeypatch):
    monkeypatch.setattr(acceptance_rule, "kept_choices", lambda choices, proposed, gamma: gamma)
    # Plain rounds propose nothing, so the rule leaves them alone.
    check = greedy_identity(TARGET, NOISY, PROMPTS, SHORT)
    assert check.passed is False
    assert check.figures["parted"]
    assert f"{len(PROMPTS) - len(check.figures['parted'])} of {len(PROMPTS)}" in check.detail


def test_in_bfloat16_the_margin_where_texts_part_is_reported_and_nothing_fails(monkeypatch):
    target, draft = copy.deepcopy(TARGET).bfloat16(), copy.deepcopy(NOISY).bfloat16()
    monkeypatch.setattr(acceptance_rule, "kept_choices", lambda choices, proposed, gamma: gamma)
    check = greedy_identity(target, draft, PROMPTS, SHORT)
    assert (check.name, check.passed) == ("greedy_margins_low_precision", None)
    assert check.figures["dtype"] == "bfloat16"
    assert check.figures["parted"]
    assert "margin" in check.detail


def test_the_margin_is_the_targets_top_two_where_the_texts_part():
    parted = certificate._parting(TARGET, [5, 6, 7], [40, 41, 42], [40, 41, 43])
    best = TARGET(input_ids=torch.tensor([[5, 6, 7, 40, 41]])).logits[0, -1].topk(2).values
    assert parted["position"] == 2
    assert parted["margin"] == pytest.approx(float(best[0] - best[1]), abs=1e-4)
    assert certificate._parting(TARGET, [5], [40], [40, 41])["position"] == 1  # one goes on where the other ended


def test_checks_go_into_json():
    document = greedy_identity(TARGET, NOISY, PROMPTS[:1], SHORT).document()
    assert set(document) == {"name", "passed", "n_tokens", "detail", "figures"}
