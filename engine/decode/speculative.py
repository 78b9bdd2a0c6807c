"""Speculative decoding as a generator of events [Leviathan et al. 2023; Chen et al. 2023].

A round: the draft proposes gamma tokens, one forward of the target judges them all, token i
is kept while u_i <= p_i(x_i) / q_i(x_i), the first refused one is drawn anew from the residual,
and a round without refusal earns a bonus token. With `draft=None` gamma is 0 and every
round is one plain target token, so plain decoding runs through the same code.

Draft, target and judgement of all rows run on the device, one after the other; the host waits for it once a round,
in `to_host`, and writes down what happened. At temperature 0 the device only chooses, and the host judges.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from engine.decode.acceptance_rule import Column, choices_of, judge_greedy_rows, judge_rows, marked
from engine.decode.device import Stopwatch, on_device, to_host
from engine.decode.events import Alternative, Fate, Round, Token
from engine.decode.runner import AnyRunner, runner_for
from engine.decode.sampling import (
    NOT_NUMBERS,
    Sampling,
    Uniforms,
    distribution,
    draw,
    likeliest,
    not_numbers,
    one_hot,
)
from engine.decode.settings import DecodeSettings
from engine.errors import DraftbenchError
from engine.models.vocabulary import align_logits, spread

Observe = Callable[[int, torch.Tensor], None]
"""Called with a row's number and the target's last hidden states at the round's emitted tokens: [emitted, width]."""


_SPARE_SLOTS = 16  # a block near the limit may be longer than what its row has room for


@dataclass
class _Row:
    """A row of the batch while it is being decoded."""

    number: int
    ids: list[int]  # the prompt, and what was emitted
    name: str = ""
    emitted: int = 0
    rounds: int = 0


@dataclass(frozen=True)
class Proposal:
    """What the draft proposes in a round: ids [row, gamma], and the distributions q that they were drawn from.

    `probs`: [row, gamma, vocab]; None where all of q lies on the ids: at temperature 0, and of argmax proposals.
    """

    ids: torch.Tensor
    probs: torch.Tensor | None

    def draft_probs(self, vocab: int) -> torch.Tensor:
        """q written out: [row, gamma, vocab]."""
        return one_hot(self.ids, vocab) if self.probs is None else self.probs


@dataclass(frozen=True)
class _Judged:
    """The target's verdict on one row's proposal, and what it makes of the row.

    `accepted`: what the models keep in their caches, which is more than is written where a stop id ends the row.
    `finish_reason` is None unless the row ends.
    """

    accepted: int
    tokens: tuple[Token, ...]
    finish_reason: str | None


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

    `target` and `draft` are Transformers causal models in evaluation mode; the draft may be on a device of its own.
    `names` seed the rows' own random streams (their numbers by default): with a fixed length a row's rounds do not
    depend on the rows beside it. `alternatives` is the number of likeliest tokens of either model to note at each
    judged position. A row never exceeds the limit of `settings`: near it, it proposes less. `observe` is called for
    each round before the round is yielded.

    Raises DraftbenchError, with the first round, for an empty prompt, for a model in training mode, and for one that
    cannot be decoded speculatively; ValueError if there are more or fewer names than prompts.
    """
    check_prompts(prompts, names)
    uniforms = Uniforms(settings.seed, list(names or map(str, range(len(prompts)))))
    known = list(names or [""] * len(prompts))
    rows = [_Row(i, list(ids), known[i]) for i, ids in enumerate(prompts) if settings.max_new_tokens > 0]
    longest = max(map(len, prompts), default=0) + settings.max_new_tokens + _SPARE_SLOTS
    target_runner = runner_for(target, slots=longest)
    draft_runner = None if draft is None else runner_for(draft, is_draft=True, slots=longest)
    try:
        yield from _rounds(target_runner, draft_runner, rows, settings, uniforms, alternatives, observe)
    finally:  # also where the caller stops early
        for runner in _both(target_runner, draft_runner):
            runner.close()


@torch.no_grad()
def _rounds(
    target_runner: AnyRunner,
    draft_runner: AnyRunner | None,
    rows: list[_Row],
    settings: DecodeSettings,
    uniforms: Uniforms,
    alternatives: int,
    observe: Observe | None,
) -> Iterator[Round]:
    target, limit, length = target_runner.model, settings.max_new_tokens, settings.length.fresh()
    device = target.device  # asked once: see SlotRunner
    sampling, draft_sampling = settings.sampling, settings.draft_sampling
    vocab = target.get_output_embeddings().weight.shape[0]
    while rows:
        watch = Stopwatch(device)
        most = length.next() if draft_runner else 0
        gammas = [min(most, limit - row.emitted - 1) for row in rows]  # the target adds one token itself
        gamma = max(gammas)
        draws = uniforms.take([row.number for row in rows], 2 * most + 1)
        proposal = proposals(draft_runner, _unread(draft_runner, rows), draft_sampling, draws[:, :gamma], vocab, device)
        watch.mark()
        logits = target_runner.feed(_unread(target_runner, rows), last=gamma + 1, tail=proposal.ids)
        watch.mark()
        deciding = _deciding(draws, gammas)
        probs, columns = _verdicts(logits, proposal, deciding, gammas, sampling)
        judged = _judged(target, rows, gammas, deciding, columns, settings)
        if gamma:
            # The target has read the whole proposal and keeps what it accepted. The draft has not read the last token,
            # and gives back one more: it begins every round by reading two tokens, so that no round is ragged.
            for runner in _both(target_runner, draft_runner):
                runner.take_back([gamma - one.accepted for one in judged])
        draft_s, verify_s, overhead_s = watch.seconds()
        rounds = [
            Round(row.number, row.rounds, own, one.tokens, draft_s, verify_s, overhead_s, one.finish_reason)
            for row, own, one in zip(rows, gammas, judged, strict=True)
        ]
        if alternatives:  # they are for the eye: to look them up is not counted as decoding
            rounds = _with_alternatives(rounds, alternatives, logits, probs, proposal, sampling)
        length.saw(sum(r.accepted for r in rounds), sum(r.accepted + r.rejected for r in rounds))
        for place, (row, item) in enumerate(zip(rows, rounds, strict=True)):
            if observe is not None:
                observe(row.number, target_runner.hidden[place, : len(item.emitted)])
            yield item
            row.rounds += 1
        going = [place for place, one in enumerate(judged) if one.finish_reason is None]
        if len(going) < len(rows):
            rows, sampling, draft_sampling = [rows[i] for i in going], sampling.at(going), draft_sampling.at(going)
            for runner in _both(target_runner, draft_runner):
                runner.keep_rows(going)


def check_prompts(prompts: Sequence[Sequence[int]], names: Sequence[str] | None) -> None:
    """Raise DraftbenchError for a prompt without tokens, ValueError for more or fewer names than prompts."""
    if names is not None and len(names) != len(prompts):
        raise ValueError(f"{len(names)} names for {len(prompts)} prompts")
    empty = next((number for number, ids in enumerate(prompts) if len(ids) == 0), None)
    if empty is not None:
        raise DraftbenchError(
            f"prompt {(names or list(map(str, range(len(prompts)))))[empty]!r} has no tokens",
            "there is nothing to continue from",
            "begin it with the token that begins a text, or leave it out",
        )


def plain_decode(target: Any, prompts: Sequence[Sequence[int]], settings: DecodeSettings) -> Iterator[Round]:
    """Decode with the target alone: rounds of gamma 0, each with one token and no proposal."""
    return speculative_decode(target, None, prompts, settings)


def rounds_from(
    target_runner: AnyRunner, draft_runner: AnyRunner | None, texts: Sequence[Sequence[int]], settings: DecodeSettings
) -> Iterator[Round]:
    """Go on in the middle of texts (ids) that the runners have read but for their last tokens, as `speculative_decode`.

    Each runner has at least one token of each text yet to read. They stay open, and `take_back` leads back.
    """
    rows = [_Row(number, list(ids)) for number, ids in enumerate(texts)]
    uniforms = Uniforms(settings.seed, [str(row.number) for row in rows])
    return _rounds(target_runner, draft_runner, rows, settings, uniforms, 0, None)


def propose(
    draft_runner: AnyRunner | None,
    pending: Sequence[Sequence[int]],
    sampling: Sampling,
    draws: torch.Tensor,
    vocab: int,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """gamma tokens a row from the draft, and the distributions they were drawn from.

    `pending`: what the draft has yet to read of each row. `sampling`: the draft's (`DecodeSettings.draft_sampling`).
    `vocab`: rows of the target's head.
    draws: [row, gamma] -> proposed: [row, gamma] ids, draft_probs: [row, gamma, vocab], on `device`, the target's. The
    draft may be on another one.
    """
    proposal = proposals(draft_runner, pending, sampling, draws, vocab, device)
    return proposal.ids, proposal.draft_probs(vocab)


@torch.no_grad()
def proposals(
    draft_runner: AnyRunner | None,
    pending: Sequence[Sequence[int]],
    sampling: Sampling,
    draws: torch.Tensor,
    vocab: int,
    device: torch.device,
) -> Proposal:
    """`propose` without q where it is one-hot. The host waits for nothing."""
    gamma = draws.shape[1]
    if draft_runner is None or gamma == 0:
        none = torch.zeros(len(pending), 0, dtype=torch.long, device=device)
        return Proposal(none, None if sampling.greedy else torch.zeros(len(pending), 0, vocab, device=device))
    ids: list[torch.Tensor] = []
    probs: list[torch.Tensor] = []
    own_ids = draft_runner.head.ids
    uniforms = None if sampling.greedy else on_device(draws, draft_runner.device)
    for step in range(gamma):
        logits = (draft_runner.feed_ids(ids[-1].unsqueeze(1)) if step else draft_runner.feed(pending, last=1))[:, -1]
        own = logits if own_ids is not None else align_logits(logits, vocab)
        if uniforms is None:
            drawn = likeliest(own)
        else:
            probs.append(distribution(own, sampling))
            drawn = draw(probs[-1], uniforms[:, step])
        ids.append(drawn if own_ids is None else own_ids[drawn])
    q = spread(torch.stack(probs, 1), own_ids, vocab).to(device) if probs else None
    return Proposal(torch.stack(ids, 1).to(device), q)


def _both(target_runner: AnyRunner, draft_runner: AnyRunner | None) -> tuple[AnyRunner, ...]:
    return (target_runner,) if draft_runner is None else (target_runner, draft_runner)


def _unread(runner: AnyRunner | None, rows: Sequence[_Row]) -> list[list[int]]:
    """What a model has yet to read of each row."""
    lengths = runner.lengths if runner is not None and runner.lengths else [0] * len(rows)
    return [row.ids[length:] for row, length in zip(rows, lengths, strict=True)]


def _deciding(draws: torch.Tensor, gammas: Sequence[int]) -> torch.Tensor:
    """The draws that judge each row's own gamma tokens, then the one for the token that follows.

    draws: [row, 2 * most + 1], which end with them -> [row, gamma + 1].
    """
    end = draws.shape[1] - 1
    first = end - torch.tensor(gammas).unsqueeze(1)
    index = (first + torch.arange(max(gammas))).clamp_max(end)
    return torch.cat([draws.gather(1, index), draws[:, end:]], dim=1)


def _verdicts(
    logits: torch.Tensor, proposal: Proposal, deciding: torch.Tensor, gammas: Sequence[int], sampling: Sampling
) -> tuple[torch.Tensor | None, Sequence[Column]]:
    """p [row, gamma + 1, vocab], None at temperature 0; on the host what was proposed, and the columns of `Verdicts`.

    logits: as p. The host waits here.
    """
    if sampling.greedy:
        proposed, choices = to_host(proposal.ids, choices_of(logits))
        return None, (proposed, *judge_greedy_rows(choices, proposed, gammas))
    own, probs = on_device(torch.tensor(gammas), logits.device), distribution(logits, sampling)
    verdicts = judge_rows(
        probs, proposal.draft_probs(probs.shape[-1]), proposal.ids, on_device(deciding, logits.device), own
    )
    return probs, to_host(proposal.ids, *marked(verdicts, logits).columns())


def _judged(
    target: Any,
    rows: Sequence[_Row],
    gammas: Sequence[int],
    deciding: torch.Tensor,
    columns: Sequence[Column],
    settings: DecodeSettings,
) -> list[_Judged]:
    """Write down each row's round. columns: what was proposed, and those of `Verdicts`, each [row, any]."""
    uniforms = deciding.numpy().tolist()
    return [
        _judged_row(target, row, gamma, uniforms[place], [column[place] for column in columns], settings)
        for place, (row, gamma) in enumerate(zip(rows, gammas, strict=True))
    ]


def _judged_row(
    target: Any,
    row: _Row,
    gamma: int,
    uniforms: Sequence[float],
    columns: Sequence[Sequence[Any]],
    settings: DecodeSettings,
) -> _Judged:
    """Write down the verdict on the row's first `gamma` proposed tokens, whatever the others have room for.

    An end-of-sequence token among the accepted ends the answer there: what follows in the block is discarded and no
    token is drawn after it. Raises DraftbenchError if the target's logits were no numbers.
    """
    ids, (kept,), (next_token,), p, q, overlaps, (next_p,), (next_q,) = columns
    refused = kept < gamma
    stop_at = next((i for i in range(kept) if ids[i] in settings.stop_ids), None)
    if next_token == NOT_NUMBERS and stop_at is None:
        raise not_numbers(target, row.name, row.emitted + kept)
    accepted = kept if stop_at is None else stop_at + 1
    examined = accepted + (1 if refused and stop_at is None else 0)
    tokens = []
    for i, token in enumerate(ids[:gamma]):
        if i >= examined:
            tokens.append(Token(token, Fate.DISCARDED, row.emitted + i, draft_prob=q[i]))
            continue
        fate = Fate.ACCEPTED if i < accepted else Fate.REJECTED
        tokens.append(Token(token, fate, row.emitted + i, p[i], q[i], uniforms[i], overlaps[i]))
    if stop_at is None:
        fate, draft_prob = (Fate.CORRECTED, next_q) if refused else (Fate.BONUS, None)
        tokens.append(Token(next_token, fate, row.emitted + accepted, next_p, draft_prob, uniforms[-1]))
    row.ids += [*ids[:accepted], *([next_token] if stop_at is None else [])]
    row.emitted += accepted + (stop_at is None)
    stopped = row.ids[-1] in settings.stop_ids
    reason = "stop" if stopped else "length" if row.emitted >= settings.max_new_tokens else None
    return _Judged(kept, tuple(tokens), reason)


def _with_alternatives(
    rounds: Sequence[Round],
    count: int,
    logits: torch.Tensor,
    probs: torch.Tensor | None,
    proposal: Proposal,
    sampling: Sampling,
) -> list[Round]:
    """The rounds, each judged or drawn token with the `count` likeliest of its position."""
    vocab = logits.shape[-1]
    target_probs = distribution(logits, sampling) if probs is None else probs
    draft_probs = proposal.draft_probs(vocab)
    return [
        replace(item, tokens=_alternatives(item, target_probs[place], draft_probs[place], count))
        for place, item in enumerate(rounds)
    ]


def _alternatives(item: Round, p: torch.Tensor, q: torch.Tensor, count: int) -> tuple[Token, ...]:
    """The round's tokens with their alternatives. p: [gamma + 1, vocab], q: [gamma, vocab], of the whole batch."""
    # The token drawn in place of a refused one stands where that stood, so they have the same alternatives.
    examined = min(item.accepted + 1, item.drafted)
    likeliest = [_likeliest(p[i], q[i], count) for i in range(examined)]
    if item.tokens[-1].fate is Fate.BONUS:
        likeliest.append(_likeliest(p[item.accepted], torch.zeros_like(p[item.accepted]), count))
    return tuple(
        token if token.fate is Fate.DISCARDED else replace(token, alternatives=likeliest[min(i, item.accepted)])
        for i, token in enumerate(item.tokens)
    )


def _likeliest(target_probs: torch.Tensor, draft_probs: torch.Tensor, count: int) -> tuple[Alternative, ...]:
    """The `count` likeliest tokens of either model, target's order first; none that both rule out."""
    best = [probs.topk(min(count, probs.shape[-1])).indices.tolist() for probs in (target_probs, draft_probs)]
    ids = list(dict.fromkeys(best[0] + best[1]))
    both = torch.stack([target_probs[ids], draft_probs[ids]]).tolist()
    return tuple(Alternative(i, p, q) for i, p, q in zip(ids, *both, strict=True) if p > 0 or q > 0)
