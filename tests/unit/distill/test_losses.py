"""Every loss, value and gradient, against a plain float64 form written here, in the regimes where such code breaks."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from engine.capture.signal import CompactSignal, ExactSignal, LogitsSignal, Signal, SignalFormat
from engine.distill.losses import LOSSES, Context, tvd_pp_rewards
from engine.models.head import Head

ROWS, VOCAB, WIDTH, TOP_K = 12, 41, 16, 6
BETA, ETA, REWARD_MEAN, REWARD_STD, HARD = 0.3, 2.0, 0.4, 0.7, 0.6


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def random_pair() -> tuple[torch.Tensor, torch.Tensor]:
    return normal(ROWS, WIDTH, seed=0), normal(ROWS, VOCAB, seed=1) * 2


def peaked() -> tuple[torch.Tensor, torch.Tensor]:
    return normal(ROWS, WIDTH, seed=0) * 30, normal(ROWS, VOCAB, seed=1) * 30


def identical() -> tuple[torch.Tensor, torch.Tensor]:
    hidden = normal(ROWS, WIDTH, seed=0)
    return hidden, head().logits(hidden)


def certain() -> tuple[torch.Tensor, torch.Tensor]:
    """The target is sure of one token up to float32 rounding; the draft is not."""
    hidden = normal(ROWS, WIDTH, seed=0) * 200
    return hidden, normal(ROWS, VOCAB, seed=1)


REGIMES = {"random": random_pair, "peaked": peaked, "draft = target": identical, "one-hot target": certain}


def head() -> Head:
    return Head(normal(VOCAB, WIDTH, seed=9) / 4, None)


def context(temperature: float = 1.0) -> Context:
    draws = torch.Generator().manual_seed(5)
    return Context(
        torch.randint(VOCAB, (ROWS,), generator=draws),
        torch.rand(ROWS, generator=draws, dtype=torch.float64),
        temperature,
        BETA,
        ETA,
        REWARD_MEAN,
        REWARD_STD,
        HARD,
    )


def exact(hidden: torch.Tensor) -> ExactSignal:
    return ExactSignal(hidden, head())


def compact(hidden: torch.Tensor) -> CompactSignal:
    form = SignalFormat("compact", WIDTH, VOCAB, TOP_K)
    signal = form.decode(form.encode(hidden, head().logits(hidden)), None)
    assert isinstance(signal, CompactSignal)
    return signal


# ---- the plain forms, in float64 ------------------------------------------------------------


def supports(signal: Signal, draft_logits: torch.Tensor, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """log p and log q over tokens, or over the kept tokens and one bucket of all others."""
    log_q = (draft_logits / temperature).log_softmax(-1)
    if isinstance(signal, ExactSignal):
        return (signal.head.logits(signal.hidden).double() / temperature).log_softmax(-1), log_q
    assert isinstance(signal, CompactSignal)
    mass = torch.cat([signal.logprobs.double().exp(), signal.tail_mass.double().clamp_min(1e-12)[:, None]], -1)
    mass = mass / mass.sum(-1, keepdim=True)
    buckets = []
    for row, ids in enumerate(signal.token_ids.tolist()):
        others = [v for v in range(log_q.shape[-1]) if v not in ids]
        buckets.append(torch.cat([log_q[row, ids], log_q[row, others].logsumexp(0, keepdim=True)]))
    return mass.log(), torch.stack(buckets)


def kl(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    return (a.exp() * (a - b)).sum(-1)


def plain_jsd(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    log_m = (BETA * log_p.exp() + (1 - BETA) * log_q.exp()).log()
    return BETA * kl(log_p, log_m) + (1 - BETA) * kl(log_q, log_m)


def plain_lk_hybrid(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    total_variation = (log_p.exp() - log_q.exp()).abs().sum(-1) / 2
    weight = torch.exp(-ETA * (1 - total_variation)).detach()
    return weight * kl(log_p, log_q) + (1 - weight) * total_variation


def plain_argmax_ce(log_p: torch.Tensor, log_q: torch.Tensor, hard: float = HARD) -> torch.Tensor:
    tokens = TOP_K if log_p.shape[-1] == TOP_K + 1 else log_p.shape[-1]  # the bucket of a compact signal is no token
    best = [max(range(tokens), key=row.__getitem__) for row in log_p.tolist()]
    ce = torch.stack([-log_q[row, token] for row, token in enumerate(best)])
    return hard * ce + (1 - hard) * kl(log_p, log_q)


def plain_neg_log_acceptance(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    return -torch.minimum(log_p.exp(), log_q.exp()).sum(-1).clamp_min(1e-5).log()


def plain_tvd_pp(log_p: torch.Tensor, log_q: torch.Tensor) -> torch.Tensor:
    """REINFORCE with the context's draws: -(r - mean) / std * log q(x), x the inverse of q's cumulative sum."""
    q, terms = log_q.detach().exp(), []
    for row, uniform in enumerate(context().uniforms.tolist()):
        x = int((q[row].cumsum(0) / q[row].sum() <= uniform).sum())
        reward = float(log_p[row, x] > log_q[row, x])
        terms.append(-(reward - REWARD_MEAN) / REWARD_STD * log_q[row, x])
    return torch.stack(terms)


PLAIN: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "forward_kl": kl,
    "reverse_kl": lambda log_p, log_q: kl(log_q, log_p),
    "jsd": plain_jsd,
    "tvd": lambda log_p, log_q: (log_p.exp() - log_q.exp()).abs().sum(-1) / 2,
    "tvd_pp": plain_tvd_pp,
    "neg_log_acceptance": plain_neg_log_acceptance,
    "lk_hybrid": plain_lk_hybrid,
    "argmax_ce": plain_argmax_ce,
}


def value_and_gradient(loss: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
    leaf = logits.clone().requires_grad_()
    values = loss(leaf)
    assert values.shape == (ROWS,)
    return values.detach().double(), torch.autograd.grad(values.sum(), leaf)[0].double()


@pytest.mark.parametrize("make_signal", [exact, compact])
@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize("name", PLAIN)
def test_value_and_gradient_are_those_of_the_plain_form(
    name: str, regime: str, make_signal: Callable[[torch.Tensor], Signal]
):
    hidden, draft_logits = REGIMES[regime]()
    signal = make_signal(hidden)
    found = value_and_gradient(lambda logits: LOSSES[name](logits, signal, context()), draft_logits)
    plain = value_and_gradient(lambda logits: PLAIN[name](*supports(signal, logits, 1.0)), draft_logits.double())
    scale = max(1.0, float(plain[0].abs().max()))  # float32 has 7 digits; a sum over logs of size s is off by s * 1e-6
    torch.testing.assert_close(found[0], plain[0], rtol=1e-4, atol=2e-6 * scale)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-3, atol=2e-6 * scale)


@pytest.mark.parametrize("temperature", [0.5, 3.0])
@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"tvd_pp"}))
def test_a_distillation_temperature_softens_both_sides(name: str, temperature: float):
    hidden, draft_logits = random_pair()
    signal = exact(hidden)
    found = value_and_gradient(lambda z: LOSSES[name](z, signal, context(temperature)), draft_logits)
    plain = value_and_gradient(lambda z: PLAIN[name](*supports(signal, z, temperature)), draft_logits.double())
    torch.testing.assert_close(found[0], plain[0], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(found[1], plain[1], rtol=1e-3, atol=1e-6)


def test_every_loss_of_the_registry_has_a_plain_form_here():
    assert set(PLAIN) | {"sft"} == set(LOSSES)


@pytest.mark.parametrize("name", sorted(set(PLAIN) - {"tvd_pp", "argmax_ce"}))
@pytest.mark.parametrize("regime", REGIMES)
def test_a_divergence_is_never_negative_and_zero_only_at_the_target(name: str, regime: str):
    hidden, draft_logits = REGIMES[regime]()
    value = LOSSES[name](draft_logits, exact(hidden), context())
    gradient = value_and_gradient(lambda z: LOSSES[name](z, exact(hidden), context()), draft_logits)[1]
    if regime == "draft = target":
        assert value.abs().max() < 1e-5
        assert gradient.abs().max() < 1e-5
    else:
        assert value.min() > 1e-3


def test_total_variation_is_one_minus_acceptance():
    hidden, draft_logits = random_pair()
    acceptance = torch.minimum(torch.softmax(head().logits(hidden), -1), torch.softmax(draft_logits, -1)).sum(-1)
    torch.testing.assert_close(LOSSES["tvd"](draft_logits, exact(hidden), context()), 1 - acceptance)
    found = LOSSES["neg_log_acceptance"](draft_logits, exact(hidden), context())
    torch.testing.assert_close(found, -acceptance.log())


def test_neg_log_acceptance_stops_growing_where_nothing_is_shared():
    signal = LogitsSignal(torch.tensor([[80.0, 0.0, 0.0]]))
    value, gradient = (
        t for t in _one(lambda z: LOSSES["neg_log_acceptance"](z, signal, context()), torch.tensor([[0.0, 80.0, 0.0]]))
    )
    assert float(value) == pytest.approx(-math.log(1e-5), rel=1e-5)
    assert gradient.abs().max() == 0


def _one(loss: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = logits.clone().requires_grad_()
    value = loss(leaf)
    return value.detach(), torch.autograd.grad(value.sum(), leaf)[0]


def test_jsd_moves_from_reverse_to_forward_kl_with_beta():
    """beta -> 0: jsd / beta -> KL(p || q); beta -> 1: jsd / (1 - beta) -> KL(q || p) [GKD, arXiv 2306.13649]."""
    hidden, draft_logits = random_pair()
    for beta, name in ((1e-4, "forward_kl"), (1 - 1e-4, "reverse_kl")):
        settings = Context(context().token_ids, context().uniforms, beta=beta)
        limit = LOSSES["jsd"](draft_logits.double(), exact(hidden), settings) / min(beta, 1 - beta)
        torch.testing.assert_close(limit, LOSSES[name](draft_logits, exact(hidden), settings), rtol=0.03, atol=0.02)


def test_lk_hybrid_is_a_kl_far_off_and_a_total_variation_near():
    hidden, draft_logits = random_pair()
    far = Context(context().token_ids, context().uniforms, eta=1e-6)
    near = Context(context().token_ids, context().uniforms, eta=1e6)
    for settings, name in ((far, "forward_kl"), (near, "tvd")):
        mixed = _one(lambda z, s=settings: LOSSES["lk_hybrid"](z, exact(hidden), s), draft_logits)
        pure = _one(lambda z, s=settings, n=name: LOSSES[n](z, exact(hidden), s), draft_logits)
        torch.testing.assert_close(mixed[0], pure[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mixed[1], pure[1], rtol=1e-4, atol=1e-5)


def test_argmax_ce_is_hard_at_one_and_forward_kl_as_it_goes_to_zero():
    hidden, draft_logits = random_pair()
    best, leaf = exact(hidden).head.logits(hidden).argmax(-1), draft_logits
    hard = Context(context().token_ids, context().uniforms, hard_weight=1.0)
    found = _one(lambda z: LOSSES["argmax_ce"](z, exact(hidden), hard), leaf)
    probs = torch.softmax(draft_logits.double(), -1)
    chosen = torch.nn.functional.one_hot(best, VOCAB)
    torch.testing.assert_close(found[0].double(), -(probs * chosen).sum(-1).log(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), probs - chosen, rtol=1e-4, atol=1e-6)
    soft = Context(context().token_ids, context().uniforms, hard_weight=1e-7)
    for mine, theirs in zip(
        _one(lambda z: LOSSES["argmax_ce"](z, exact(hidden), soft), leaf),
        _one(lambda z: LOSSES["forward_kl"](z, exact(hidden), context()), leaf),
        strict=True,
    ):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


def test_argmax_ce_never_takes_the_bucket_of_a_compact_signal_for_a_token():
    """The others have more together than the likeliest token alone."""
    signal = CompactSignal(torch.tensor([[3, 1]]), torch.tensor([[0.2, 0.1]]).log(), torch.tensor([0.7]), VOCAB)
    loss = LOSSES["argmax_ce"](torch.zeros(1, VOCAB), signal, Context(torch.zeros(1).long(), torch.zeros(1)))
    assert float(loss) == pytest.approx(math.log(VOCAB), rel=1e-5)


def test_the_weight_of_lk_hybrid_carries_no_gradient():
    """The gradient is w grad KL + (1 - w) grad TV with w held fixed; a weight that learnt would add a term."""
    hidden, draft_logits = random_pair()
    signal = exact(hidden)
    gradients = {
        name: _one(lambda z, n=name: LOSSES[n](z, signal, context()), draft_logits)
        for name in ("forward_kl", "tvd", "lk_hybrid")
    }
    weight = torch.exp(-ETA * (1 - gradients["tvd"][0])).unsqueeze(-1)
    expected = weight * gradients["forward_kl"][1] + (1 - weight) * gradients["tvd"][1]
    torch.testing.assert_close(gradients["lk_hybrid"][1], expected, rtol=1e-4, atol=1e-6)


def test_sft_is_cross_entropy_with_the_targets_token_whatever_the_signal_and_temperature():
    _, draft_logits = random_pair()
    found = _one(lambda z: LOSSES["sft"](z, None, context(temperature=4.0)), draft_logits)  # type: ignore[arg-type]
    probs = torch.softmax(draft_logits.double(), -1)
    chosen = torch.nn.functional.one_hot(context().token_ids, VOCAB)
    torch.testing.assert_close(found[0].double(), -(probs * chosen).sum(-1).log(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found[1].double(), probs - chosen, rtol=1e-4, atol=1e-6)


def test_sft_on_samples_is_forward_kl_plus_a_constant_in_expectation():
    """E[-log q(x)] = KL(p || q) + H(p), and the gradients agree: black box and white box pull the same way."""
    count, logits, draft_logits = 200_000, normal(11, seed=0) * 1.5, normal(11, seed=1) * 1.5
    log_p = torch.log_softmax(logits, -1)
    tokens = torch.multinomial(log_p.exp(), count, replacement=True, generator=torch.Generator().manual_seed(3))
    leaf = draft_logits.clone().requires_grad_()
    sampled = LOSSES["sft"](leaf.expand(count, -1), None, Context(tokens, tokens.double()))  # type: ignore[arg-type]
    divergence = LOSSES["forward_kl"](leaf[None], LogitsSignal(logits[None]), context())
    entropy = -(log_p.exp() * log_p).sum()
    standard_error = float(sampled.detach().std()) / math.sqrt(count)
    assert abs(float((sampled.mean() - divergence[0] - entropy).detach())) < 4 * standard_error
    black, white = (torch.autograd.grad(value, leaf, retain_graph=True)[0] for value in (sampled.mean(), divergence[0]))
    assert (black - white).abs().max() < 4 * 0.5 / math.sqrt(
        count
    )  # a coordinate is a mean of indicators, deviation <= 1/2
    assert white.abs().max() > 0.05


@pytest.mark.slow
def test_tvd_pp_with_all_draws_has_the_gradient_of_tvd():
    """Averaged over many draws the baseline cancels: REINFORCE is the total variation's gradient over sigma."""
    count, logits, draft_logits = 400_000, normal(7, seed=0), normal(7, seed=1)
    uniforms = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    signal = LogitsSignal(logits.expand(count, -1))
    leaf = draft_logits.clone().requires_grad_()
    settings = Context(torch.zeros(count, dtype=torch.long), uniforms, reward_mean=0.6, reward_std=0.5)
    sampled = torch.autograd.grad(LOSSES["tvd_pp"](leaf.expand(count, -1), signal, settings).mean(), leaf)[0]
    whole = torch.autograd.grad(LOSSES["tvd"](leaf[None], LogitsSignal(logits[None]), context()).sum(), leaf)[0]
    assert whole.abs().max() > 0.02
    assert (sampled - whole / 0.5).abs().max() < 4 * 1.2 / 0.5 / math.sqrt(count)


def test_tvd_pp_rewards_are_one_exactly_where_the_target_wants_more():
    uniforms = (torch.arange(4, dtype=torch.float64) + 0.5) / 4  # draws 0, 1, 2, 3 from a flat draft
    signal = LogitsSignal(torch.tensor([[3.0, 0.0, 2.0, -1.0]]).expand(4, -1))
    rewards = tvd_pp_rewards(torch.zeros(4, 4), signal, Context(torch.zeros(4, dtype=torch.long), uniforms))
    assert rewards.tolist() == [1.0, 0.0, 1.0, 0.0]
