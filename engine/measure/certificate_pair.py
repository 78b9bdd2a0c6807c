"""Checks of the certificate that are about this pair of models on its own prompts, decoded as they are measured.

`engine.measure.certificate` certifies the rules of decoding. Here the target judges what was written: the text of rows
of different length that were decoded together, with the trained draft, must be the choice of the target alone; and
tokens emitted at some places of the held-out text must follow the target's own distribution there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from scipy import special

from engine.capture.answered import AnsweredPrompt
from engine.catalogue import Proposals
from engine.decode import acceptance_rule
from engine.decode.device import on_device
from engine.decode.runner import runner_for
from engine.decode.sampling import Sampling, Uniforms, distribution, draw, overlap
from engine.decode.settings import GREEDY, DecodeSettings
from engine.decode.slot_fit import slot_fit
from engine.decode.speculative import propose, speculative_decode
from engine.measure.certificate import LEAST_P_VALUE, in_words, pool_rare, target_logits, texts
from engine.models.head import Head, hidden_states
from engine.records.certificate import Check

_TIE = 1e-4  # of the largest logit: what kernels for one row and for several may differ by in float32
_CELLS = 10  # of equal mass, on each side of p = q
_DRAWS_AT_ONCE = 64  # each is a row of the vocabulary
_ROWS = 2  # at least; as many as the certificate has prompts


def shortfalls(logits: torch.Tensor, tokens: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """How far each token is behind the likeliest of its position, and what counts as a tie there.

    logits: [token, vocab], float32 -> logits [token] each, on the CPU.
    """
    own = logits.gather(-1, torch.tensor(tokens, device=logits.device).unsqueeze(-1)).squeeze(-1)
    return (logits.max(-1).values - own).cpu(), (_TIE * logits.abs().max(-1).values).cpu()


def first_wrong(target: Any, prompt: Sequence[int], text: Sequence[int]) -> dict[str, Any] | None:
    """The first token that is not the target's choice, ties apart: position and by how many logits; None if none."""
    behind, ties = shortfalls(target_logits(target, prompt, text), text)
    wrong = (behind > ties).nonzero().flatten().tolist()
    return {"position": wrong[0], "logits": float(behind[wrong[0]])} if wrong else None


def ragged_rows(prompts: Sequence[Sequence[int]], rows: int) -> list[Sequence[int]]:
    """Some of the prompts, from the shortest to the median one, so that they are ragged and cost little."""
    ordered = sorted(prompts, key=len)
    if len(ordered) == 1:
        ordered.insert(0, ordered[0][len(ordered[0]) // 2 :])  # or nothing would be ragged
    last = max(1, len(ordered) // 2)
    count = min(last + 1, max(_ROWS, rows))
    return [ordered[i * last // (count - 1)] for i in range(count)]


def ragged_identity(target: Any, draft: Any, prompts: Sequence[Sequence[int]], settings: DecodeSettings) -> Check:
    """Prompts of different length decoded together at temperature 0, in float32, against the target alone.

    If each token is the target's choice after those before it, the text is the target's greedy text, so one forward
    a prompt proves it.
    """
    greedy = replace(settings, sampling=Sampling(0.0))
    written = texts(speculative_decode(target, draft, prompts, greedy), len(prompts))
    wrong = [
        {"row": row, **wrong_token}
        for row, (prompt, text) in enumerate(zip(prompts, written, strict=True))
        if (wrong_token := first_wrong(target, prompt, text))
    ]
    together = {name: slot_fit(model) for name, model in (("target", target), ("draft", draft))}
    lengths = sorted(map(len, prompts))
    detail = (
        f"{len(prompts) - len(wrong)} of {len(prompts)} texts, decoded together from prompts of {lengths[0]} to "
        f"{lengths[-1]} tokens, are the target's own choice token for token in float32"
    )
    apart = [fit.why_not for fit in together.values() if not fit.side_by_side]
    if apart:
        detail += f"; {' and '.join(dict.fromkeys(apart))}, so its rows have a cache each"
    figures = {
        "wrong": wrong,
        "prompt_tokens": lengths,
        "side_by_side": {name: fit.side_by_side for name, fit in together.items()},
    }
    return Check(
        name="ragged_identity_float32",
        passed=not wrong,
        n_tokens=sum(map(len, written)),
        detail=detail,
        figures=figures,
    )


def traced_equals_captured(
    target_float32: Any, answers: Sequence[AnsweredPrompt], traced: Sequence[Sequence[int]], *, exact: bool
) -> Check:
    """The text of the trace at temperature 0 against what the target wrote when it was captured, token for token.

    `exact`: the run is in float32, where they must be the same, ties apart. In lower precision rounding makes texts
    part; by how much the worse of both was behind the target's choice in float32 is reported.
    """
    parted = []
    for row, (answer, text) in enumerate(zip(answers, traced, strict=True)):
        pairs = list(zip(answer.token_ids, text, strict=False))
        at = next((i for i, (a, b) in enumerate(pairs) if a != b), None)
        if at is not None:
            common = target_logits(target_float32, answer.prompt_ids, answer.token_ids[: at + 1])[-1]
            behind, ties = shortfalls(common.expand(2, -1), [answer.token_ids[at], text[at]])
            parting: dict[str, Any] = {"row": row, "position": at}
            for name, gap, tie in zip(("captured", "traced"), behind.tolist(), ties.tolist(), strict=True):
                parting |= {name: gap, f"{name}_is_choice": gap <= tie}
            parted.append(parting)
    detail = f"{len(traced) - len(parted)} of {len(traced)} traced texts at temperature 0 are the captured ones"
    if parted:
        most = max(max(parting["captured"], parting["traced"]) for parting in parted)
        detail += f"; where they part, one is at most {most:.4f} logits behind the other in float32"
    fair = all(parting["captured_is_choice"] and parting["traced_is_choice"] for parting in parted)
    return Check(
        name="traced_equals_captured",
        passed=fair if exact else None,
        n_tokens=sum(map(len, traced)),
        detail=detail,
        figures={"parted": parted},
    )


@torch.no_grad()
def pair_chi_square(
    target: Any,
    draft: Any,
    prefixes: Sequence[Sequence[int]],
    sampling: Sampling,
    *,
    draws: int,
    seed: int,
    proposals: Proposals = "sampled",
) -> Check:
    """The first token of a round, drawn many times at each of some prefixes, against the target's own distribution.

    p and q are those of decoding the prefixes together; what is expected is p of the target alone. Ids are counted
    in cells of about equal mass, apart for those that the draft proposes too often and too rarely, since a wrong rule
    moves tokens between these.
    """
    vocab = target.get_output_embeddings().weight.shape[0]
    uniforms = Uniforms(seed, [f"chi-square:{i}" for i in range(len(prefixes))])
    pending = [list(ids) for ids in prefixes]
    p = distribution(runner_for(target).feed(pending, last=1)[:, -1], sampling)
    first = uniforms.take(list(range(len(prefixes))), 1)
    draft_sampling = sampling if proposals == "sampled" else GREEDY
    _, q = propose(runner_for(draft, is_draft=True), pending, draft_sampling, first, vocab, target.device)
    counts, expected, impossible = [], [], 0
    for row, prefix in enumerate(prefixes):
        hidden = hidden_states(target, torch.tensor([list(prefix)], device=target.device))[0, -1]
        own = distribution(Head.of(target).logits(hidden), sampling)
        emitted = _emitted(p[row], q[row, 0], uniforms.take([row], 3 * draws)[0].reshape(draws, 3))
        cells, mass = _cells(own, q[row, 0])
        seen = torch.bincount(cells[emitted] + 1, minlength=len(mass) + 1)
        impossible += int(seen[0])
        pooled = pool_rare(seen[1:].double(), mass * draws)
        counts.append(pooled[0])
        expected.append(pooled[1])
    statistic = float(sum(((c - e).square() / e).sum() for c, e in zip(counts, expected, strict=True)))
    freedom = sum(len(c) - 1 for c in counts)
    p_value = 0.0 if impossible else float(special.chdtrc(freedom, statistic)) if freedom else 1.0
    acceptance = float(overlap(p, q[:, 0]).mean())
    total = draws * len(prefixes)
    detail = (
        f"chi-square of {total:,} tokens of this pair{in_words(proposals)}, the first of a round at {len(prefixes)} "
        f"places of the held-out text, over {sum(map(len, counts))} cells: p = {p_value:.3f} (acceptance "
        f"{acceptance:.2f})"
    )
    figures = {
        "p_value": p_value,
        "statistic": statistic,
        "freedom": freedom,
        "acceptance": acceptance,
        "impossible": impossible,
        "seed": seed,
    }
    passed = p_value > LEAST_P_VALUE
    return Check(name="chi_square_pair", passed=passed, n_tokens=total, detail=detail, figures=figures)


def _emitted(p: torch.Tensor, q: torch.Tensor, uniforms: torch.Tensor) -> torch.Tensor:
    """The first token of a round proposing one, for each row of uniforms [draw, 3]. p, q: [vocab] -> ids [draw]."""
    emitted = []
    for part in torch.split(on_device(uniforms, p.device), _DRAWS_AT_ONCE):
        rows = len(part)
        proposed = draw(q.expand(rows, -1), part[:, 0])
        two, one = p.expand(rows, 2, -1), torch.ones(rows, dtype=torch.long, device=p.device)
        judged = acceptance_rule.judge_rows(two, q.expand(rows, 1, -1), proposed.unsqueeze(1), part[:, 1:], one)
        emitted.append(torch.where(judged.accepted == 1, proposed, judged.next_tokens))
    return torch.cat(emitted).cpu()


def _cells(p: torch.Tensor, q: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A cell for each id, -1 where p is zero, and each cell's mass. p, q: [vocab] -> [vocab] int64, [cell] float64."""
    p, q = p.double().cpu(), q.double().cpu()
    cells = torch.full_like(p, -1, dtype=torch.long)
    for side, on_side in enumerate((q > p, q <= p)):
        ids = (on_side & (p > 0)).nonzero().flatten()
        ids = ids[p[ids].argsort(descending=True)]
        before = p[ids].cumsum(0) - p[ids]
        cells[ids] = side * _CELLS + (before / p[ids].sum() * _CELLS).long().clamp_max(_CELLS - 1)
    mass = torch.zeros(2 * _CELLS, dtype=torch.double).index_add(0, cells.clamp_min(0), p)
    return cells, mass / mass.sum()


def certified_prefixes(answers: Sequence[AnsweredPrompt], rows: int, seed: int) -> list[list[int]]:
    """A place in each of the answers to the shortest prompts, drawn by the seed: the prompt and what came before it."""
    some = sorted(answers, key=lambda answer: len(answer.prompt_ids))[: max(_ROWS, rows)]
    places = Uniforms(seed, [answer.prompt_id for answer in some])
    drawn = places.take(list(range(len(some))), 1)[:, 0].tolist()
    return [[*a.prompt_ids, *a.token_ids[: int(u * len(a.token_ids))]] for a, u in zip(some, drawn, strict=True)]
