"""Speculative decoding as a generator of events [Leviathan et al. 2023; Chen et al. 2023].

A round: the draft proposes gamma tokens, one forward of the target judges them all, token i
is kept while u_i <= p_i(x_i) / q_i(x_i), the first refused one is drawn anew from the residual,
and a round without refusal earns a bonus token. With `draft=None` gamma is 0 and every
round is one plain target token, so plain decoding runs through the same code.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.decode.events import Alternative, Fate, Round, Token
from engine.decode.runner import AnyRunner, runner_for
from engine.decode.sampling import Sampling, Uniforms, distribution, draw, overlap, residual
from engine.decode.settings import DecodeSettings
from engine.models.vocabulary import align_logits, spread

Observe = Callable[[int, torch.Tensor], None]
"""Called with a row's number and the target's last hidden states at the round's emitted tokens: [emitted, width]."""


@dataclass(frozen=True)
class Verdict:
    """The target's judgement of one row's proposal: how many were kept, and the token after them."""

    accepted: int
    next_token: int
    refused: bool


def accepted_tokens(target_prob: torch.Tensor, draft_prob: torch.Tensor, uniforms: torch.Tensor) -> int:
    """Count the tokens of a block that are kept before the first refusal.

    p and q of each proposed token and the draws that judge them: [token] each.
    """
    # u < p / q without dividing. In double, or u would round to 1 and refuse p = q; strict, so that p = 0 is refused.
    kept = uniforms.double() * draft_prob.cpu().double() < target_prob.cpu().double()
    return int(kept.long().cumprod(0).sum())


def judge(
    target_probs: torch.Tensor, draft_probs: torch.Tensor, proposed: torch.Tensor, uniforms: torch.Tensor
) -> Verdict:
    """Accept or refuse a proposal; the mathematics of speculative sampling, nothing else.

    target_probs: [gamma + 1, vocab], draft_probs: [gamma, vocab], proposed: [gamma] ids,
    uniforms: [gamma + 1] in [0, 1), the last one for the token that follows.
    """
    gamma = proposed.shape[0]
    index = torch.arange(gamma, device=proposed.device)
    accepted = accepted_tokens(target_probs[index, proposed], draft_probs[index, proposed], uniforms[:gamma])
    refused = accepted < gamma
    source = residual(target_probs[accepted], draft_probs[accepted]) if refused else target_probs[gamma]
    return Verdict(accepted, int(draw(source, uniforms[gamma])), refused)


@dataclass
class _Row:
    """A row of the batch while it is being decoded."""

    number: int
    target_pending: list[int]
    draft_pending: list[int]
    emitted: int = 0
    rounds: int = 0


@dataclass(frozen=True)
class _Judged:
    """One row's proposal in a round, the target's verdict on it, and what it makes of the row.

    target_probs: [gamma + 1, vocab], draft_probs: [gamma, vocab], with the row's own gamma. `finish_reason` is None
    unless the row ends.
    """

    row: _Row
    target_probs: torch.Tensor
    draft_probs: torch.Tensor
    verdict: Verdict
    tokens: tuple[Token, ...]
    finish_reason: str | None


@torch.no_grad()
def speculative_decode(
    target: Any,
    draft: Any | None,
    prompts: Sequence[Sequence[int]],
    settings: DecodeSettings,
    *,
    names: Sequence[str] | None = None,
    alternatives: int = 0,
    observe: Observe | None = None,
) -> Iterator[Round]:
    """Decode the prompts (ids, at least one each) together and yield each row's rounds as they end.

    `target` and `draft` are Transformers causal models on one device. `names` seed the rows' own random streams (their
    numbers by default): with a fixed length a row's rounds do not depend on the rows beside it. `alternatives` is the
    number of likeliest tokens of either model to note at each judged position. A row never exceeds the limit of
    `settings`: near it, it proposes less. `observe` is called for each round before the round is yielded.
    """
    uniforms = Uniforms(settings.seed, list(names or map(str, range(len(prompts)))))
    limit, length = settings.max_new_tokens, settings.length.fresh()
    rows = [_Row(i, list(ids), list(ids)) for i, ids in enumerate(prompts) if limit > 0]
    target_runner = runner_for(target)
    draft_runner = None if draft is None else runner_for(draft, is_draft=True)
    vocab = target.get_output_embeddings().weight.shape[0]
    while rows:
        started = time.perf_counter()
        most = length.next() if draft_runner else 0
        gammas = [min(most, limit - row.emitted - 1) for row in rows]  # the target adds one token itself
        draws = uniforms.take([row.number for row in rows], 2 * most + 1)
        unread = [row.draft_pending for row in rows]
        proposed, draft_probs = propose(
            draft_runner, unread, settings.sampling, draws[:, : max(gammas)], vocab, target.device
        )
        drafted = _synchronised(target)
        pending = [row.target_pending + ids for row, ids in zip(rows, proposed.tolist(), strict=True)]
        target_probs = distribution(target_runner.feed(pending, last=max(gammas) + 1), settings.sampling)
        verified = _synchronised(target)
        judged = [
            _judged(row, gamma, target_probs[i], draft_probs[i], proposed[i], draws[i], settings)
            for i, (row, gamma) in enumerate(zip(rows, gammas, strict=True))
        ]
        _roll_back(target_runner, draft_runner, judged, proposed.tolist())
        ended = time.perf_counter()
        seconds = (drafted - started, verified - drafted, ended - verified)
        rounds = [  # alternatives are for the eye: to look them up is not counted as decoding
            Round(one.row.number, one.row.rounds, gamma, _alternatives(one, alternatives), *seconds, one.finish_reason)
            for one, gamma in zip(judged, gammas, strict=True)
        ]
        length.saw(sum(r.accepted for r in rounds), sum(r.accepted + r.rejected for r in rounds))
        for place, (row, item) in enumerate(zip(rows, rounds, strict=True)):
            if observe is not None:
                observe(row.number, target_runner.hidden[place, : len(item.emitted)])
            yield item
            row.rounds += 1
        going = [i for i, one in enumerate(judged) if one.finish_reason is None]
        if len(going) < len(rows):
            rows = [rows[i] for i in going]
            target_runner.keep_rows(going)
            if draft_runner is not None:
                draft_runner.keep_rows(going)


def plain_decode(
    target: Any, prompts: Sequence[Sequence[int]], settings: DecodeSettings, *, names: Sequence[str] | None = None
) -> Iterator[Round]:
    """Decode with the target alone: rounds of gamma 0, each with one token and no proposal."""
    return speculative_decode(target, None, prompts, settings, names=names)


@torch.no_grad()
def propose(
    draft_runner: AnyRunner | None,
    pending: list[list[int]],
    sampling: Sampling,
    draws: torch.Tensor,
    vocab: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gamma tokens a row from the draft, and the distributions they were drawn from.

    `pending`: what the draft has yet to read of each row. `vocab`: rows of the target's head.
    draws: [row, gamma] -> proposed: [row, gamma] ids, draft_probs: [row, gamma, vocab], on `device`.
    """
    gamma = draws.shape[1]
    if draft_runner is None or gamma == 0:
        empty = torch.zeros(len(pending), 0, vocab, device=device)
        return torch.zeros(len(pending), 0, dtype=torch.long, device=device), empty
    ids, probs, own_ids = [], [], draft_runner.head.ids
    for step in range(gamma):
        logits = draft_runner.feed(pending, last=1)[:, -1]
        probs.append(distribution(logits if own_ids is not None else align_logits(logits, vocab), sampling))
        drawn = draw(probs[-1], draws[:, step])
        ids.append(drawn if own_ids is None else own_ids[drawn])
        pending = [[token] for token in ids[-1].tolist()]
    return torch.stack(ids, 1), spread(torch.stack(probs, 1), own_ids, vocab)


def _judged(
    row: _Row,
    gamma: int,
    target_probs: torch.Tensor,
    draft_probs: torch.Tensor,
    proposed: torch.Tensor,
    draws: torch.Tensor,
    settings: DecodeSettings,
) -> _Judged:
    """Judge the row's first `gamma` proposed tokens, whatever the others have room for, and count what it emits.

    An end-of-sequence token among the accepted ends the answer there: what follows in the block is discarded and no
    token is drawn after it.
    """
    p, q, uniforms = target_probs[: gamma + 1], draft_probs[:gamma], draws[-gamma - 1 :]
    verdict = judge(p, q, proposed[:gamma], uniforms)
    ids, deciding = proposed[:gamma].tolist(), uniforms.tolist()
    stop_at = next((i for i in range(verdict.accepted) if ids[i] in settings.stop_ids), None)
    accepted = verdict.accepted if stop_at is None else stop_at + 1
    examined = accepted + (1 if verdict.refused and stop_at is None else 0)
    overlaps = overlap(p[:examined], q[:examined]).tolist()
    tokens = []
    for i, token in enumerate(ids):
        if i >= examined:
            tokens.append(Token(token, Fate.DISCARDED, row.emitted + i, draft_prob=float(q[i, token])))
            continue
        fate = Fate.ACCEPTED if i < accepted else Fate.REJECTED
        both = float(p[i, token]), float(q[i, token])
        tokens.append(Token(token, fate, row.emitted + i, *both, deciding[i], overlaps[i]))
    if stop_at is None:
        fate, token = (Fate.CORRECTED if verdict.refused else Fate.BONUS), verdict.next_token
        draft_prob = float(q[accepted, token]) if verdict.refused else None
        place = row.emitted + accepted
        tokens.append(Token(token, fate, place, float(p[accepted, token]), draft_prob, deciding[gamma]))
    row.emitted += accepted + (stop_at is None)
    stopped = (verdict.next_token if stop_at is None else ids[stop_at]) in settings.stop_ids
    reason = "stop" if stopped else "length" if row.emitted >= settings.max_new_tokens else None
    return _Judged(row, p, q, verdict, tuple(tokens), reason)


def _alternatives(judged: _Judged, count: int) -> tuple[Token, ...]:
    """The round's tokens, each judged or drawn one with the `count` likeliest of its position."""
    tokens, p, q = judged.tokens, judged.target_probs, judged.draft_probs
    if count == 0:
        return tokens
    # The token drawn in place of a refused one stands where that stood, so they have the same alternatives.
    accepted = sum(token.fate is Fate.ACCEPTED for token in tokens)
    examined = min(accepted + 1, q.shape[0])
    likeliest = [_likeliest(p[i], q[i], count) for i in range(examined)]
    if tokens[-1].fate is Fate.BONUS:
        likeliest.append(_likeliest(p[accepted], torch.zeros_like(p[accepted]), count))
    return tuple(
        token if token.fate is Fate.DISCARDED else replace(token, alternatives=likeliest[min(i, accepted)])
        for i, token in enumerate(tokens)
    )


def _likeliest(target_probs: torch.Tensor, draft_probs: torch.Tensor, count: int) -> tuple[Alternative, ...]:
    """The `count` likeliest tokens of either model, target's order first; none that both rule out."""
    best = [probs.topk(min(count, probs.shape[-1])).indices.tolist() for probs in (target_probs, draft_probs)]
    ids = list(dict.fromkeys(best[0] + best[1]))
    both = torch.stack([target_probs[ids], draft_probs[ids]]).tolist()
    return tuple(Alternative(i, p, q) for i, p, q in zip(ids, *both, strict=True) if p > 0 or q > 0)


def _roll_back(
    target_runner: AnyRunner, draft_runner: AnyRunner | None, judged: Sequence[_Judged], proposed: list[list[int]]
) -> None:
    """Make both caches end with the last accepted token and note what each model has yet to read.

    The draft never reads the last token it proposed, so after full acceptance it has two to read, the last proposal and
    the bonus; otherwise only the corrected one.
    """
    gamma = len(proposed[0])
    target_runner.take_back([gamma - one.verdict.accepted for one in judged])
    for one in judged:
        one.row.target_pending = [one.verdict.next_token]
    if draft_runner is None:
        return
    if gamma == 0:  # it read nothing this round
        for one in judged:
            one.row.draft_pending = [*one.row.draft_pending, one.verdict.next_token]
        return
    draft_runner.take_back([max(0, gamma - 1 - one.verdict.accepted) for one in judged])
    for one, ids in zip(judged, proposed, strict=True):
        unread = ids[-1:] if one.verdict.accepted == gamma else []
        one.row.draft_pending = [*unread, one.verdict.next_token]


def _synchronised(model: Any) -> float:
    """The clock, after the device has finished what it was given."""
    if model.device.type == "cuda":
        torch.cuda.synchronize(model.device)
    return time.perf_counter()
