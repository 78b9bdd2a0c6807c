"""From logits to the distribution that is sampled, and from uniform numbers to tokens."""

import math

import pytest
import torch

from engine.decode.sampling import Sampling, Uniforms, distribution, draw, likeliest, next_ids, overlap, residual
from engine.decode.settings import DecodeSettings, FixedLength
from engine.errors import DraftbenchError

FOUR = torch.tensor([0.15, 0.5, 0.1, 0.25]).log()
LARGEST_UNIFORM = 1 - 2**-53  # what numpy's generator can return at most


def test_temperature_divides_the_logits():
    roots = torch.tensor([0.15, 0.5, 0.1, 0.25]).sqrt()
    torch.testing.assert_close(distribution(FOUR, Sampling(2.0)), roots / roots.sum())


def test_temperature_zero_is_one_hot_on_the_likeliest_token():
    logits = torch.stack([FOUR, -FOUR])
    assert distribution(logits, Sampling(0.0, top_k=3, top_p=0.5)).tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_top_k_keeps_the_k_likeliest_and_renormalises():
    assert distribution(FOUR, Sampling(top_k=1)).tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(distribution(FOUR, Sampling(top_k=2)), torch.tensor([0.0, 2 / 3, 0.0, 1 / 3]))


@pytest.mark.parametrize("k", [0, 4, 5, 1000])
def test_top_k_off_or_not_below_the_vocabulary_changes_nothing(k):
    torch.testing.assert_close(distribution(FOUR, Sampling(top_k=k)), FOUR.exp())


@pytest.mark.parametrize("vocab", [50, 5000])
def test_top_k_ties_at_the_edge_go_to_the_lower_ids(vocab):
    # Target and draft see the same row in batches of different shape: the choice must not hang on that.
    scores = torch.zeros(3, vocab)
    scores[1, 7] = 1.0
    kept = distribution(scores, Sampling(top_k=3)) > 0
    assert kept.nonzero().tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 7], [2, 0], [2, 1], [2, 2]]


@pytest.mark.parametrize(
    ("top_p", "kept"),
    [(1e-6, [0.5]), (0.45, [0.5]), (0.55, [0.5, 0.25]), (0.8, [0.5, 0.25, 0.15]), (0.95, [0.5, 0.25, 0.15, 0.1])],
)
def test_top_p_keeps_the_smallest_likeliest_set_that_reaches_it(top_p, kept):
    found = distribution(FOUR, Sampling(top_p=top_p)).sort(descending=True).values[: len(kept)]
    torch.testing.assert_close(found, torch.tensor(kept) / sum(kept))
    assert int((distribution(FOUR, Sampling(top_p=top_p)) > 0).sum()) == len(kept)


def test_top_p_looks_at_what_top_k_left():
    # Of the two kept by top-k the first has 2/3, enough for .6; of all four it has 1/2, not enough.
    assert distribution(FOUR, Sampling(top_k=2, top_p=0.6)).tolist() == [0, 1, 0, 0]
    assert int((distribution(FOUR, Sampling(top_p=0.6)) > 0).sum()) == 2


def test_top_p_looks_at_the_tempered_distribution():
    # At temperature 2 the first token has .37 only.
    assert int((distribution(FOUR, Sampling(2.0, top_p=0.45)) > 0).sum()) == 2


def test_low_precision_logits_give_a_float32_distribution():
    probs = distribution(torch.randn(2, 500).bfloat16(), Sampling(top_p=0.9))
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(-1), torch.ones(2))


def test_draw_inverts_the_cumulative_distribution():
    probs = torch.tensor([0.2, 0.0, 0.5, 0.3])
    uniforms = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    ids = draw(probs.expand(1000, 4), uniforms)
    assert ids.bincount(minlength=4).tolist() == [200, 0, 500, 300]
    assert ids.tolist() == sorted(ids.tolist())


@pytest.mark.parametrize("uniform", [0.0, 5e-324, 0.25, 0.5, LARGEST_UNIFORM])
def test_draw_never_returns_a_token_of_probability_zero(uniform):
    probs = torch.tensor([[0, 0.25, 0, 0.25, 0, 0.5, 0], [0, 0, 0, 0, 0, 0, 1.0], [1, 0, 0, 0, 0, 0, 0]])
    ids = draw(probs, torch.full((3,), uniform, dtype=torch.float64))
    assert (probs.gather(1, ids.unsqueeze(1)) > 0).all()
    assert ids.tolist()[1:] == [6, 0]


def test_draw_reaches_the_first_and_the_last_possible_token():
    probs = torch.tensor([0, 0.25, 0.5, 0.25, 0])
    assert int(draw(probs, torch.tensor(0.0))) == 1
    assert int(draw(probs, torch.tensor(LARGEST_UNIFORM, dtype=torch.float64))) == 3


def test_draw_does_not_run_past_the_end_where_float32_sums_fall_short_of_one():
    torch.manual_seed(0)
    probs = distribution(torch.randn(64, 20_000), Sampling(top_k=5000))
    ids = draw(probs, torch.full((64,), LARGEST_UNIFORM, dtype=torch.float64))
    assert (probs.gather(1, ids.unsqueeze(1)) > 0).all()


def test_draw_takes_unnormalised_weights():
    uniforms = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    assert draw(torch.tensor([3.0, 1.0]).expand(40, 2), uniforms).bincount().tolist() == [30, 10]


def test_residual_is_what_the_target_has_more_of():
    p, q = torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor([0.4, 0.3, 0.2, 0.1])
    torch.testing.assert_close(residual(p, q), torch.tensor([0.0, 0.0, 0.25, 0.75]))


def test_residual_of_equal_distributions_is_the_target():
    p = torch.tensor([0.1, 0.9])
    assert residual(p, p.clone()).tolist() == p.tolist()


def test_overlap_is_one_less_the_total_variation():
    torch.manual_seed(1)
    p, q = torch.randn(2, 100, 50, dtype=torch.float64).softmax(-1)
    torch.testing.assert_close(overlap(p, q), 1 - (p - q).abs().sum(-1) / 2)


def test_a_row_keeps_its_stream_whatever_the_batch():
    together, alone = Uniforms(3, ["a", "b", "c"]), Uniforms(3, ["c"])
    first = together.take([0, 2], 2)
    second = together.take([2], 3)
    expected = alone.take([0], 5)[0]
    assert torch.cat([first[1], second[0]]).tolist() == expected.tolist()
    assert expected.dtype == torch.float64
    assert first[0].tolist() != first[1].tolist()


def test_another_seed_or_name_gives_another_stream():
    streams = [Uniforms(seed, [name]).take([0], 4).tolist() for seed, name in [(0, "a"), (1, "a"), (0, "b")]]
    assert streams[0] != streams[1]
    assert streams[0] != streams[2]


@pytest.mark.parametrize("sampling", [Sampling(0.0), Sampling(1.0), Sampling(0.7, 5, 0.8)], ids=str)
def test_next_ids_are_draws_from_the_distribution(sampling):
    torch.manual_seed(2)
    logits, uniforms = torch.randn(200, 30), torch.rand(200, dtype=torch.float64)
    assert next_ids(logits, sampling, uniforms).tolist() == draw(distribution(logits, sampling), uniforms).tolist()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(512,), (3, 1024), (2, 4, 768), (2, 300), (5, 256), (0, 512)])
def test_the_likeliest_id_is_torchs_argmax_also_among_equals(shape, dtype):
    logits = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    assert torch.equal(likeliest(logits), logits.argmax(-1))
    for rounded in (logits.round(), torch.zeros_like(logits), torch.full_like(logits, float("-inf"))):
        largest = rounded == rounded.amax(-1, keepdim=True)
        first = largest & (largest.cumsum(-1) == 1)
        assert torch.equal(likeliest(rounded), first.int().argmax(-1))


@pytest.mark.parametrize(
    "values", [(-1.0,), (math.nan,), (math.inf,), (1e-45,), (1.0, -1), (1.0, 0, 0.0), (1.0, 0, -0.5), (1.0, 0, 1.5)]
)
def test_what_gives_no_distribution_is_refused(values):
    with pytest.raises(DraftbenchError, match="nothing can be sampled"):
        Sampling(*values)


def test_a_rule_to_propose_of_another_name_is_refused():
    with pytest.raises(DraftbenchError, match="unknown proposals 'Argmax'") as refused:
        DecodeSettings(Sampling(), FixedLength(2), 8, frozenset(), proposals="Argmax")
    assert "argmax" in refused.value.fix


def test_no_rows_draw_nothing():
    assert draw(torch.zeros(0, 5), torch.zeros(0)).shape == (0,)
