"""The losslessness certificate: is the output still exactly the target's?

Each check runs with proposals as they are measured, sampled or argmax. With their figures:
a draft identical to the target is always accepted (of argmax proposals above temperature 0: as
often as p(argmax q) says); greedy
speculative text equals greedy plain text token for token in float32; the sampling rule of this
build gives texts that follow a target's distribution (chi-square, on a built-in pair with a
vocabulary small enough to know it exactly); and in low precision, where kernels for one row and
for several round differently, how small the target's own margin was wherever the texts first
part. The last is reported, not failed: it is arithmetic, not a defect. What is checked of the
pair's own ragged batches and distributions stands in `engine.measure.certificate_pair`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy import special

from engine.catalogue import Proposals
from engine.decode.events import Fate, Round
from engine.decode.sampling import Sampling, SamplingByRow, distribution
from engine.decode.settings import DecodeSettings, FixedLength
from engine.decode.speculative import plain_decode, speculative_decode
from engine.measure.statistics import ALARM_Z, calibration_z
from engine.models.head import Head, hidden_states
from engine.models.quantised import is_exact
from engine.records.certificate import Check

SELF_DRAFT_SETTINGS = tuple(
    Sampling(temperature, top_k, top_p)
    for temperature, (top_k, top_p) in itertools.product((0.0, 0.7, 1.0), ((0, 1.0), (0, 0.9), (50, 1.0), (50, 0.9)))
)
# Of the built-in pair's draft: one is accepted often enough by its rule that accepted and bonus tokens take part.
_DRAFT_SEEDS: dict[Proposals, int] = {"sampled": 2, "argmax": 9}
_SELF_DRAFT_ROWS = 32  # decoded together
LEAST_P_VALUE = 1e-4  # a sound pair falls below it once in ten thousand seeds; a broken rule by many powers of ten


def in_words(proposals: Proposals) -> str:
    """How tokens were proposed, for the end of a phrase; nothing for sampled ones, as in the papers."""
    return " with argmax proposals" if proposals == "argmax" else ""


def texts(rounds: Iterable[Round], rows: int) -> list[list[int]]:
    """Emitted ids of each row."""
    written: list[list[int]] = [[] for _ in range(rows)]
    for r in rounds:
        written[r.row] += r.emitted
    return written


def self_draft(
    target: Any,
    prompts: Sequence[Sequence[int]],
    settings: DecodeSettings,
    samplings: Sequence[Sampling] = SELF_DRAFT_SETTINGS,
) -> Check:
    """The target drafts for itself under every sampling setting.

    Sampled proposals are those of the very distribution that judges them: none may be refused. Of argmax proposals
    none may be refused at temperature 0; above it as many are kept as sum p(x) says, and none comes back after its
    refusal. Different settings are rows of one batch, since a forward costs little more for many rows than for one.
    """
    rejected = dict.fromkeys(map(_in_words, samplings), 0)
    examined, at_once = 0, max(1, _SELF_DRAFT_ROWS // len(prompts))
    certain = settings.proposals == "sampled"  # whether nothing may be refused above temperature 0 either
    drawn: list[Round] = []
    for start in range(0, len(samplings), at_once):
        rows = [(own, ids) for own in samplings[start : start + at_once] for ids in prompts]
        by_row = SamplingByRow(rows=tuple(own for own, _ in rows))
        together = replace(settings, sampling=by_row, stop_ids=frozenset())  # none ends before its last token
        # Each row has draws of its own: with those of another setting it would be accepted alike, and z be too wide.
        names = [str(start * len(prompts) + row) for row in range(len(rows))]
        for item in speculative_decode(target, target, [ids for _, ids in rows], together, names=names):
            rejected[_in_words(rows[item.row][0])] += item.rejected
            examined += item.accepted + item.rejected
            if certain and item.row == len(rows) - 1 and any(rejected.values()):
                break  # it has failed
            if not (certain or rows[item.row][0].greedy):
                drawn.append(item)
    refused = sum(rejected.values())
    if not certain:
        return _argmax_self_draft(drawn, rejected, sum(rejected[_in_words(own)] for own in samplings if own.greedy))
    detail = f"{examined - refused:,} of {examined:,} proposals of a draft identical to the target were accepted"
    return Check(
        name="self_draft", passed=refused == 0, n_tokens=examined, detail=detail, figures={"rejected": rejected}
    )


def _argmax_self_draft(drawn: Sequence[Round], rejected: dict[str, int], greedy_refused: int) -> Check:
    """The self-draft with argmax proposals. `drawn`: the rounds above temperature 0, `rejected`: by sampling."""
    judged = [t for r in drawn for t in r.tokens if t.overlap is not None]
    result = calibration_z([t.fate is Fate.ACCEPTED for t in judged], [min(1.0, t.overlap or 0.0) for t in judged])
    refusals = [dict(_of_refusal(r)) for r in drawn if r.rejected]
    came_back = sum(pair.get(Fate.REJECTED) == pair.get(Fate.CORRECTED) for pair in refusals)
    detail = (
        f"of argmax proposals of a draft identical to the target, {greedy_refused} were refused at temperature 0; "
        f"above it {result.observed:,.0f} of {result.n_tokens:,} were accepted, {result.expected:,.1f} were expected "
        f"from p(argmax q) (z = {result.z:+.2f}), and {came_back} of {len(refusals)} refused tokens came back"
    )
    passed = greedy_refused == 0 and came_back == 0 and abs(result.z) < ALARM_Z
    figures = {"rejected": rejected, "came_back": came_back, **result.as_dict()}
    return Check(name="self_draft", passed=passed, n_tokens=result.n_tokens, detail=detail, figures=figures)


def _of_refusal(item: Round) -> list[tuple[Fate, int]]:
    """The refused token of a round and what was drawn in its place, by fate."""
    return [(t.fate, t.token_id) for t in item.tokens if t.fate in (Fate.REJECTED, Fate.CORRECTED)]


def _in_words(sampling: Sampling) -> str:
    return f"T={sampling.temperature:g} top_k={sampling.top_k} top_p={sampling.top_p:g}"


def greedy_identity(target: Any, draft: Any, prompts: Sequence[Sequence[int]], settings: DecodeSettings) -> Check:
    """Greedy speculative text against greedy plain text, in whatever precision the models are in.

    In float32 identity is required. There a text whose every token is the target's likeliest after those before it,
    by one forward without a cache, is the target's greedy text, and need not be decoded once more.
    """
    greedy, exact = replace(settings, sampling=Sampling(0.0)), is_exact(target)
    plain, speculative = [], []
    for ids in prompts:  # one at a time: a batch would add its own rounding
        (text,) = texts(speculative_decode(target, draft, [ids], greedy), 1)
        proven = exact and _is_greedy(target, ids, text, greedy)
        speculative.append(text)
        plain.append(text if proven else texts(plain_decode(target, [ids], greedy), 1)[0])
    return same_greedy_text(target, prompts, plain, speculative)


def _is_greedy(target: Any, prompt: Sequence[int], text: Sequence[int], settings: DecodeSettings) -> bool:
    """Whether the target alone writes this text at temperature 0, and ends where it ends."""
    stops = [token in settings.stop_ids for token in text]
    if any(stops[:-1]) or not (stops[-1] or len(text) == settings.max_new_tokens):
        return False
    likeliest: list[int] = target_logits(target, prompt, text).argmax(-1).tolist()
    return likeliest == list(text)


@torch.no_grad()
def target_logits(target: Any, prompt: Sequence[int], text: Sequence[int]) -> torch.Tensor:
    """The target's logits at each token of a text, by itself: no cache, no padding. [token, vocab], float32."""
    ids = torch.tensor([[*prompt, *text[:-1]]], device=target.device)
    return Head.of(target).logits(hidden_states(target, ids)[0, len(prompt) - 1 :]).float()


def same_greedy_text(
    target: Any, prompts: Sequence[Sequence[int]], plain: Sequence[list[int]], speculative: Sequence[list[int]]
) -> Check:
    """Compare texts that were decoded at temperature 0 both ways, prompt by prompt.

    In float32 they must be equal. Otherwise the first difference of each prompt is reported with the target's top-2
    margin there.
    """
    parted = [
        _parting(target, list(prompt), a, b) for prompt, a, b in zip(prompts, plain, speculative, strict=True) if a != b
    ]
    exact = is_exact(target)
    dtype = str(target.dtype).removeprefix("torch.")
    detail = f"{len(prompts) - len(parted)} of {len(prompts)} greedy texts identical in {dtype}"
    if parted:
        detail += f"; largest top-2 margin where they part: {max(p['margin'] for p in parted):.4f} logits"
    name = "greedy_identity_float32" if exact else "greedy_margins_low_precision"
    return Check(
        name=name,
        passed=not parted if exact else None,
        n_tokens=sum(map(len, plain)),
        detail=detail,
        figures={"dtype": dtype, "parted": parted},
    )


def _parting(target: Any, prompt: list[int], plain: list[int], speculative: list[int]) -> dict[str, Any]:
    """Where two texts first differ, and by how much the target preferred its first choice there."""
    at = next((i for i, (a, b) in enumerate(itertools.zip_longest(plain, speculative)) if a != b))
    best = target_logits(target, prompt, [*plain[:at], 0])[-1].topk(2).values
    return {"position": at, "margin": float(best[0] - best[1])}


def tiny_model(vocab: int, seed: int) -> Any:
    """A random one-layer Llama with a vocabulary small enough to enumerate its texts."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=64,
        initializer_range=0.15,
        bos_token_id=None,
        eos_token_id=None,
        pad_token_id=0,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval().requires_grad_(False)


def chi_square(
    *,
    tokens: int,
    vocab: int = 7,
    length: int = 3,
    gamma: int = 2,
    seed: int = 0,
    batch: int = 4096,
    proposals: Proposals = "sampled",
) -> Check:
    """Emitted texts of a tiny pair against the target's exact distribution over all texts.

    It certifies the rules of sampling in this build, not the measured pair: the two random models are always the
    same, since only a tiny vocabulary can be enumerated (see `engine.measure.certificate_pair` for the pair itself).
    Every text of `length` tokens is a cell, its expected count follows from the target's own
    probabilities; both the accepted, the corrected and the bonus tokens are thereby tested
    jointly. At least `tokens` tokens are drawn.
    """
    target, draft, prompt = tiny_model(vocab, seed=1), tiny_model(vocab, seed=_DRAFT_SEEDS[proposals]), [1, 2, 3]
    settings = DecodeSettings(Sampling(1.0), FixedLength(gamma), length, frozenset(), seed, proposals)
    cells = list(itertools.product(range(vocab), repeat=length))
    expected = _text_probabilities(target, prompt, cells, settings.sampling)
    needed = -(-tokens // length)
    seen: Counter[tuple[int, ...]] = Counter()
    accepted = examined = 0
    for start in range(0, needed, batch):
        size = min(batch, needed - start)
        names = [f"{start + i}" for i in range(size)]
        rounds = list(speculative_decode(target, draft, [prompt] * size, settings, names=names))
        seen.update(tuple(text) for text in texts(rounds, size))
        accepted += sum(r.accepted for r in rounds)
        examined += sum(r.accepted + r.rejected for r in rounds)
    counts = torch.tensor([float(seen[cell]) for cell in cells]).double()
    counts, wanted = pool_rare(counts, expected * needed)
    statistic = float(((counts - wanted).square() / wanted).sum())
    p_value = float(special.chdtrc(len(counts) - 1, statistic))
    detail = (
        f"the sampling rule of this build{in_words(proposals)}, on a built-in pair of {vocab} tokens: chi-square of "
        f"{needed * length:,} "
        f"emitted tokens over {len(counts)} cells: p = {p_value:.3f} (acceptance {accepted / examined:.2f})"
    )
    figures = {
        "p_value": p_value,
        "statistic": statistic,
        "cells": len(counts),
        "acceptance": accepted / examined,
    }
    passed = p_value > LEAST_P_VALUE
    return Check(name="chi_square", passed=passed, n_tokens=needed * length, detail=detail, figures=figures)


def pool_rare(counts: torch.Tensor, expected: torch.Tensor, least: float = 5.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Cells expected fewer than `least` times become one: the chi-square law needs enough in each."""
    rare = expected < least
    if not rare.any():
        return counts, expected
    kept, rest = [t[~rare] for t in (counts, expected)], [t[rare].sum() for t in (counts, expected)]
    if rest[1] < least and len(kept[1]):  # still too rare by itself: it joins the rarest of the others
        index = kept[1].argmin()
        for cells, more in zip(kept, rest, strict=True):
            cells[index] += more
        return kept[0], kept[1]
    return torch.cat([kept[0], rest[0].unsqueeze(0)]), torch.cat([kept[1], rest[1].unsqueeze(0)])


@torch.no_grad()
def _text_probabilities(
    model: Any, prompt: list[int], cells: Sequence[tuple[int, ...]], sampling: Sampling
) -> torch.Tensor:
    """The model's probability of each continuation in `cells`: [cell], float64, summing to one."""
    ids = torch.tensor([[*prompt, *cell] for cell in cells])
    probs = distribution(model(input_ids=ids).logits[:, len(prompt) - 1 : -1], sampling).double()
    written = probs.gather(-1, ids[:, len(prompt) :].unsqueeze(-1)).squeeze(-1).prod(-1)
    return written / written.sum()
