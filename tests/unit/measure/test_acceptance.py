"""Exact acceptance against a plain float64 recomputation, one answer at a time, without the engine's own rules."""

import numpy as np
import pytest
import torch

from engine.decode.sampling import Sampling, distribution
from engine.errors import DraftbenchError
from engine.measure import acceptance
from engine.measure.acceptance import PromptAcceptance, exact_acceptance, exact_of_drafts, mean_overlap
from engine.models.draft import trim
from engine.models.head import Head, hidden_states
from engine.models.vocabulary import spread
from tests.conftest import tiny_llama
from tests.tiny_pair import as_draft, captured, noisy_copy

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def capture(tmp_path_factory, target):
    return captured(tmp_path_factory.mktemp("capture"), target)


@pytest.fixture(scope="module")
def draft():
    return noisy_copy(0.1)


def probabilities(logits, sampling):
    """[vocab] float64 -> [vocab] float64, by the definitions."""
    if sampling.temperature == 0:
        return np.eye(len(logits))[logits.argmax()]
    weights = np.exp((logits - logits.max()) / sampling.temperature)
    order = np.argsort(-weights)
    keep = order[: sampling.top_k] if sampling.top_k else order
    mass = weights[keep] / weights[keep].sum()
    keep = keep[: np.searchsorted(np.cumsum(mass), sampling.top_p) + 1] if sampling.top_p < 1 else keep
    kept = np.zeros_like(weights)
    kept[keep] = weights[keep]
    return kept / kept.sum()


@torch.no_grad()
def recomputed(draft_model, target, capture, answer, sampling):
    """overlap, agree, p(x), q(x), p(argmax q), x = argmax q at each token of the answer."""
    ids = torch.tensor([answer.prompt_ids + answer.token_ids])
    first = len(answer.prompt_ids) - 1
    head = target.model.get_output_embeddings().weight.double()
    target_logits = (capture.raw_signal(answer).view(torch.bfloat16).double() @ head.T).numpy()
    rows = target_logits.shape[1]
    draft_logits = np.full((len(answer.token_ids), rows), -np.inf)
    found = draft_model(input_ids=ids).logits[0, first:-1].double().numpy()[:, :rows]
    draft_logits[:, : found.shape[1]] = found
    columns = []
    for p_logits, q_logits, token in zip(target_logits, draft_logits, answer.token_ids, strict=True):
        p, q = probabilities(p_logits, sampling), probabilities(q_logits, sampling)
        best = q_logits.argmax()
        columns.append((np.minimum(p, q).sum(), p_logits.argmax() == best, p[token], q[token], p[best], token == best))
    return [np.array(column) for column in zip(*columns, strict=True)]


def check(draft_model, target, capture, sampling):
    results = exact_acceptance(draft_model, Head.of(target.model), capture, sampling)
    assert [r.prompt_id for r in results] == [a.prompt_id for a in capture.answers]
    for result, answer in zip(results, capture.answers, strict=True):
        overlap, agree, p, q, argmax_prob, hit = recomputed(draft_model, target, capture, answer, sampling)
        np.testing.assert_allclose(result.overlap, overlap, atol=1e-4)  # float32 against float64
        np.testing.assert_allclose(result.target_prob, p, atol=1e-4)
        np.testing.assert_allclose(result.draft_prob, q, atol=1e-4)
        np.testing.assert_allclose(result.argmax_prob, argmax_prob, atol=1e-4)
        assert result.hit.tolist() == hit.tolist()
        assert result.agree.tolist() == agree.tolist()
        assert (result.token_ids, result.group) == (answer.token_ids, answer.group)
    return results


@pytest.mark.parametrize(
    "sampling",
    [Sampling(1.0), Sampling(0.7), Sampling(1.0, 20), Sampling(1.0, 0, 0.8), Sampling(0.7, 20, 0.8)],
    ids=str,
)
def test_equals_a_float64_recomputation(draft, target, capture, sampling):
    results = check(draft, target, capture, sampling)
    assert 0.1 < mean_overlap(results) < 0.95


def test_at_temperature_zero_it_is_greedy_agreement(draft, target, capture):
    results = check(draft, target, capture, Sampling(0.0))
    for result in results:
        assert result.overlap.tolist() == result.argmax_prob.tolist() == result.agree.float().tolist()
    assert 0 < mean_overlap(results) < 1


@pytest.fixture(scope="module")
def greedy_capture(tmp_path_factory, target):
    return captured(tmp_path_factory.mktemp("greedy"), target, temperature=0)


def blurred(target):
    """The target's head as a reader of rounded states sees it: near a tie another token comes out best."""
    noise = torch.randn(target.model.get_output_embeddings().weight.shape, generator=torch.Generator().manual_seed(0))
    return Head(target.model.get_output_embeddings().weight + 0.3 * noise, None)


def test_of_greedy_text_the_targets_choice_is_the_token_it_wrote(draft, target, greedy_capture):
    head, sampling = blurred(target), Sampling(0.0)
    results = exact_acceptance(draft, head, greedy_capture, sampling)
    stored_differs = 0
    for result, answer in zip(results, greedy_capture.answers, strict=True):
        ids = torch.tensor([answer.prompt_ids + answer.token_ids])
        best = draft(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1].argmax(-1)
        expected = (best == torch.tensor(answer.token_ids)).tolist()
        assert result.agree.tolist() == expected
        assert result.overlap.tolist() == [float(same) for same in expected]
        assert result.draft_prob.tolist() == result.overlap.tolist() == result.argmax_prob.tolist()
        assert result.hit.tolist() == expected
        assert result.target_prob.tolist() == [1.0] * len(answer.token_ids)
        states = greedy_capture.raw_signal(answer).view(torch.bfloat16).float()
        stored_differs += int((head.logits(states).argmax(-1) != torch.tensor(answer.token_ids)).sum())
    assert stored_differs > 3, "the stored argmax was the written token everywhere"


def test_of_drawn_text_greedy_agreement_asks_the_signal(draft, target, capture):
    assert not capture.greedy
    head = blurred(target)
    (first, *_) = exact_acceptance(draft, head, capture, Sampling(1.0))
    (answer, *_) = capture.answers
    states = capture.raw_signal(answer).view(torch.bfloat16).float()
    ids = torch.tensor([answer.prompt_ids + answer.token_ids])
    best = draft(input_ids=ids).logits[0, len(answer.prompt_ids) - 1 : -1].argmax(-1)
    assert first.agree.tolist() == (head.logits(states).argmax(-1) == best).tolist()


def with_fewer_rows(model, rows):
    """A draft whose head has fewer rows than its embeddings: it can read any id and propose only some."""
    weight = model.get_output_embeddings().weight[:rows].clone()
    model.lm_head = torch.nn.Linear(weight.shape[1], rows, bias=False)
    model.lm_head.weight = torch.nn.Parameter(weight, requires_grad=False)
    return model


@pytest.mark.parametrize(
    "draft", [with_fewer_rows(noisy_copy(0.1), 150), tiny_llama(layers=2, seed=5, vocab=300)], ids=["fewer", "more"]
)
def test_a_draft_with_other_vocabulary_rows(target, capture, draft):
    results = check(draft, target, capture, Sampling(1.0))
    assert mean_overlap(results) > 0.1


def test_the_target_itself_overlaps_wholly(target, capture):
    # Not exactly 1: the stored hidden state is rounded to bfloat16, the draft's is not.
    for sampling in (Sampling(1.0), Sampling(0.7)):
        results = exact_acceptance(target.model, Head.of(target.model), capture, sampling)
        assert all((r.overlap > 0.98).all() and (r.overlap <= 1 + 1e-5).all() for r in results)


def test_grouping_into_batches_and_chunks_does_not_change_it(draft, target, capture, monkeypatch):
    head = Head.of(target.model)
    together = exact_acceptance(draft, head, capture, Sampling(0.7, 20, 0.9))
    monkeypatch.setattr(acceptance, "FORWARD_TOKENS", 1)
    monkeypatch.setattr(acceptance, "chunk_size", lambda *_: 5)
    apart = exact_acceptance(draft, head, capture, Sampling(0.7, 20, 0.9))
    for a, b in zip(together, apart, strict=True):
        torch.testing.assert_close(a.overlap, b.overlap, rtol=0, atol=1e-5)
        assert a.agree.tolist() == b.agree.tolist()


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(0.7, 20, 0.9)], ids=str)
@pytest.mark.parametrize("text", ["capture", "greedy_capture"])
def test_drafts_read_together_measure_what_each_measures_alone(draft, target, sampling, text, request):
    capture, head = request.getfixturevalue(text), Head.of(target.model)
    trimmed = trim(as_draft(noisy_copy(0.3)), target, torch.arange(2, 258, 3)).model
    drafts = {"whole": draft, "trimmed": trimmed, "fewer": with_fewer_rows(noisy_copy(0.1), 150)}
    for name, together in exact_of_drafts(drafts, head, capture, sampling).items():
        alone = exact_acceptance(drafts[name], head, capture, sampling)
        for a, b in zip(together, alone, strict=True):
            assert (a.prompt_id, a.token_ids) == (b.prompt_id, b.token_ids)
            for column in ("overlap", "agree", "target_prob", "draft_prob", "argmax_prob", "hit"):
                assert torch.equal(getattr(a, column), getattr(b, column)), (name, column)


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.7, 20, 0.9)], ids=str)
def test_ids_that_a_trimmed_draft_lacks_have_no_probability(target, capture, sampling):
    """Against its distribution spread over all ids of the target."""
    kept = torch.arange(2, 258, 3)
    draft = trim(as_draft(noisy_copy()), target, kept).model
    head, own = Head.of(target.model), Head.of(draft)
    for result, answer in zip(exact_acceptance(draft, head, capture, sampling), capture.answers, strict=True):
        ids = torch.tensor([answer.prompt_ids + answer.token_ids])
        with torch.no_grad():
            hidden = hidden_states(draft, ids, is_draft=True)[0, len(answer.prompt_ids) - 1 : -1]
            q = spread(distribution(own.logits(hidden), sampling), kept, 258)
            p = distribution(head.logits(capture.raw_signal(answer).view(torch.bfloat16)), sampling)
        written = torch.tensor(answer.token_ids).unsqueeze(-1)
        torch.testing.assert_close(result.overlap, torch.minimum(p, q).sum(-1), rtol=0, atol=1e-5)
        torch.testing.assert_close(result.draft_prob, q.gather(-1, written).squeeze(-1), rtol=0, atol=1e-5)
        torch.testing.assert_close(
            result.argmax_prob, p.gather(-1, q.argmax(-1, keepdim=True)).squeeze(-1), rtol=0, atol=1e-5
        )
        assert result.hit.tolist() == (q.argmax(-1) == written.squeeze(-1)).tolist()
        assert (result.draft_prob[~torch.isin(written.squeeze(-1), kept)] == 0).all()


def test_of_greedy_text_at_temperature_zero_the_target_is_not_asked(draft, target, greedy_capture, monkeypatch):
    expected = exact_acceptance(draft, Head.of(target.model), greedy_capture, Sampling(0.0))
    nothing = Head(torch.full_like(target.model.get_output_embeddings().weight, float("nan")), None)
    found = exact_acceptance(draft, nothing, greedy_capture, Sampling(0.0))
    assert all(torch.equal(a.overlap, b.overlap) for a, b in zip(found, expected, strict=True))


def test_answers_come_in_the_order_asked_for(draft, target, capture):
    chosen = [capture.answers[i] for i in (4, 0, 2)]
    results = exact_acceptance(draft, Head.of(target.model), capture, Sampling(1.0), chosen)
    assert [r.prompt_id for r in results] == ["q4", "q0", "q2"]
    whole = {r.prompt_id: r for r in exact_acceptance(draft, Head.of(target.model), capture, Sampling(1.0))}
    for r in results:
        torch.testing.assert_close(r.overlap, whole[r.prompt_id].overlap, rtol=0, atol=1e-5)


def test_a_compact_signal_is_refused(draft, target, tmp_path):
    compact = captured(tmp_path, target, signal="compact", signal_top_k=8)
    with pytest.raises(DraftbenchError, match="needs an exact signal") as refused:
        exact_acceptance(draft, Head.of(target.model), compact, Sampling(1.0))
    assert "compact" in refused.value.why


def test_the_mean_is_over_tokens_not_over_prompts():
    def result(*overlaps):
        column = torch.tensor(overlaps)
        return PromptAcceptance("p", "", [0] * len(overlaps), column, column > 0, column, column, column, column > 0)

    assert mean_overlap([result(1.0), result(0.0, 0.5, 0.5)]) == pytest.approx(0.5)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 0.7])
def test_the_target_s_entropy_is_that_of_its_whole_distribution_at_temperature_1(
    temperature, target, greedy_capture, capture
):
    """Whatever the text was written with and p is cut by: an independent computation in float64."""
    on = greedy_capture if temperature == 0 else capture
    drafts = {"a": noisy_copy(), "b": target.model}
    results = exact_of_drafts(drafts, Head.of(target.model), on, Sampling(temperature, 20, 0.9), with_entropy=True)
    head = target.model.get_output_embeddings().weight.double()
    for result, answer in zip(results["a"], on.answers, strict=True):
        logits = (on.raw_signal(answer).view(torch.bfloat16).double() @ head.T).numpy()
        p = np.exp(logits - logits.max(-1, keepdims=True))
        p /= p.sum(-1, keepdims=True)
        np.testing.assert_allclose(result.entropy, -(p * np.log(p)).sum(-1), atol=1e-4)
        assert result.prompt_tokens == len(answer.prompt_ids)
    for mine, other in zip(results["a"], results["b"], strict=True):
        assert torch.equal(mine.entropy, other.entropy)


def test_entropy_is_computed_only_if_asked_for(target, capture):
    results = exact_of_drafts({"a": target.model}, Head.of(target.model), capture, Sampling(1.0))
    assert {result.entropy for result in results["a"]} == {None}
