"""Acceptance of a draft by a served model, measured against that model's own text: no weights of it are at hand.

    sum_v min(p(v), q(v)) = E_{x ~ p} min(1, q(x) / p(x))

So where the target drew x from p and told p(x), min(1, q(x) / p(x)) is an unbiased estimate of exact acceptance at
that position, one token instead of the sum over all. At temperature 0 it is greedy agreement, which is exact.

It holds only if x was drawn from the p that was told: at temperature 1, nothing cut off. Servers have defaults of
their own, so the text is held against the figures: the likeliest token must come as often as its probability says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import group_by_length
from engine.capture.store import AnsweredPrompt, Capture
from engine.config.schema import MeasureSpec, ServerSpec
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.measure.acceptance import PromptAcceptance, draft_side
from engine.measure.definitions import SERVED_TEXT
from engine.measure.exact_tables import exact_metrics, improvement, position_rows, prompt_table
from engine.measure.statistics import Calibration, calibration_z
from engine.measure.suite import ALARM_Z, Measured
from engine.models.draft import Draft
from engine.models.head import Head, hidden_states
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.summary import Summary
from engine.served.logprobs import read_told

_FORWARD_TOKENS = 4096
_CHUNK_VALUES = 2**22


def measure_served(
    target: LoadedModel,
    drafts: Mapping[str, Draft],
    captures: Mapping[float, Capture],
    prompt_ids: Sequence[str],
    settings: MeasureSpec,
    server: ServerSpec,
    *,
    heldout_hash: str,
    texts: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> Measured:
    """'initial' and 'trained' against the server's answers: what the suite measures, as far as text and p(x) go.

    `captures`: answers with what the server told of its tokens, by temperature. `target`, the model at hand, gives
    vocabulary, precision and device alone. No sampled rates, tau, speed or certificate: they need the target to
    run here. Raises DraftbenchError if nothing can be used, or the text was not drawn from what was told.
    """
    boot = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    summary: dict[str, Any] = {"metrics": [], "improvement": []}
    tables: dict[str, list[pd.DataFrame]] = {"positions": [], "prompts": []}
    used: list[dict[str, Any]] = []
    progress.start("measure", len(captures), "temperatures")
    for temperature, capture in captures.items():
        answers = _chosen(capture, prompt_ids)
        calibration = _checked(capture, answers, temperature, server)
        if calibration is None and temperature > 0:
            progress.note(
                f"{server.model} does not tell its likeliest tokens (`top_logprobs`): whether its text at temperature "
                f"{temperature:g} is drawn from the probabilities it sends could not be checked"
            )
        exact = {
            name: served_acceptance(draft.model, capture, temperature, target.vocab_rows, answers)
            for name, draft in drafts.items()
        }
        for name, results in exact.items():
            tables["positions"].append(position_rows(results, name, temperature))
            tables["prompts"].append(prompt_table(results, None, name, temperature, texts or {}))
            summary["metrics"] += exact_metrics(results, name, temperature, boot)
        summary["improvement"].append(improvement(exact["initial"], exact["trained"], temperature, boot))
        used.append(_used(exact["trained"], answers, temperature, calibration))
        progress.advance(1)
        progress.stop_if_asked()
    progress.finish()
    summary["conditions"] = _conditions(target, settings, server, heldout_hash, used)
    summary["served"] = {"base_url": server.base_url, "model": server.model, "positions": used}
    return Measured(
        Summary.of_values(summary), {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    )


@torch.no_grad()
def served_acceptance(
    draft_model: Any, capture: Capture, temperature: float, vocab_rows: int, answers: Sequence[AnsweredPrompt]
) -> list[PromptAcceptance]:
    """min(1, q(x) / p(x)) at the tokens x of some answers whose id and probability are certain.

    Answers without such a token are left out. `vocab_rows`: of the target. The draft runs in its own dtype.
    """
    head, sampling = Head.of(draft_model), Sampling(temperature)
    found: dict[int, PromptAcceptance] = {}
    for group in group_by_length([sequence_tokens(a) for a in answers], _FORWARD_TOKENS):
        batch = collate(capture, [answers[i] for i in group], draft_model.device)
        hidden = hidden_states(draft_model, batch.ids, batch.mask, is_draft=True)[batch.responds]
        drawn, likeliest = _draft_at(head, hidden, batch.token_ids, sampling, vocab_rows)
        told = read_told(batch.raw_signal)[0].exp()
        agree = likeliest == batch.token_ids.cpu()
        columns = [torch.split(column, batch.lengths) for column in (drawn, told, agree)]
        for row, (q, p, same) in zip(group, zip(*columns, strict=True), strict=True):
            result = _of_answer(answers[row], q, p, same if temperature == 0 else None)
            if result is not None:
                found[row] = result
    return [found[row] for row in sorted(found)]


def _of_answer(
    answer: AnsweredPrompt, q: torch.Tensor, p: torch.Tensor, agree: torch.Tensor | None
) -> PromptAcceptance | None:
    """The answer's acceptance where p is known; q and p of its tokens: [token], float32."""
    places = (torch.isfinite(p) & (p > 0)).nonzero().squeeze(-1)
    if not len(places):
        return None
    ids = [answer.token_ids[i] for i in places.tolist()]
    q, p = q[places], p[places]
    return PromptAcceptance(
        answer.prompt_id,
        answer.group,
        ids,
        (q / p).clamp_max(1.0),
        None if agree is None else agree[places],
        p,
        q,
        places.tolist(),
    )


def _draft_at(
    head: Head, hidden: torch.Tensor, token_ids: torch.Tensor, sampling: Sampling, vocab_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """q of the token written and the draft's likeliest id, [position] each, on the CPU. hidden: [position, width]."""
    size = max(1, _CHUNK_VALUES // vocab_rows)
    parts = []
    for part, ids in zip(torch.split(hidden, size), torch.split(token_ids, size), strict=True):
        q, best = draft_side(head, part, sampling, vocab_rows)
        parts.append((q.gather(-1, ids.unsqueeze(-1)).squeeze(-1).float().cpu(), best.cpu()))
    drawn, likeliest = zip(*parts, strict=True)
    return torch.cat(drawn), torch.cat(likeliest)


def _chosen(capture: Capture, prompt_ids: Sequence[str]) -> list[AnsweredPrompt]:
    by_id = {answer.prompt_id: answer for answer in capture.answers}
    return [by_id[name] for name in prompt_ids]


def _checked(
    capture: Capture, answers: Sequence[AnsweredPrompt], temperature: float, server: ServerSpec
) -> Calibration | None:
    """How often the likeliest token came, against how often it should; None where that says nothing."""
    pieces = [read_told(capture.raw_signal(answer)) for answer in answers]
    drawn, best = (torch.cat(column) for column in zip(*pieces, strict=True))
    if not torch.isfinite(drawn).any():
        raise _unusable(temperature, server)
    both = torch.isfinite(drawn) & torch.isfinite(best)
    if temperature == 0 or not both.any():
        return None
    found = calibration_z((drawn[both] >= best[both]).numpy(), best[both].exp().numpy())
    if abs(found.z) >= ALARM_Z:
        raise _not_drawn_so(found, server)
    return found


def _unusable(temperature: float, server: ServerSpec) -> DraftbenchError:
    return DraftbenchError(
        f"of no token of {server.model} at temperature {temperature:g} it is certain which one it is and how likely",
        "the server sends no log-probabilities, or its tokens are not those of the model at hand",
        "name a model with the served one's tokenizer in target.model, or measure with "
        "`draftbench measure RUN --set measure.against=model`",
    )


def _not_drawn_so(found: Calibration, server: ServerSpec) -> DraftbenchError:
    return DraftbenchError(
        f"{server.model} wrote its likeliest token {found.observed:,.0f} times in {found.n_tokens:,}, and the "
        f"probabilities it tells make that {found.expected:,.0f} (z = {found.z:+.1f})",
        "its text is not drawn from what it tells: something cuts or sharpens it (top_k, min_p, a penalty), or the "
        "figures are of another temperature, and acceptance would come out wrong",
        "start the server without sampling settings of its own (vLLM: --generation-config vllm), or measure at "
        "temperature 0 alone: `draftbench measure RUN --set measure.temperatures=[0]`",
    )


def _used(
    results: Sequence[PromptAcceptance], answers: Sequence[AnsweredPrompt], temperature: float, told: Calibration | None
) -> dict[str, Any]:
    """How much of the text is in the figures."""
    tokens, whole = sum(len(r.token_ids) for r in results), sum(len(a.token_ids) for a in answers)
    counts = {"used": tokens, "left_out": whole - tokens, "prompts": len(results), "asked": len(answers)}
    return {"temperature": temperature, **counts, "calibration": None if told is None else told.as_dict()}


def _conditions(
    target: LoadedModel, settings: MeasureSpec, server: ServerSpec, heldout_hash: str, used: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What two measurements must have in common to be compared. Gamma has no part in these rates."""
    return {
        "heldout_hash": heldout_hash,
        "heldout_prompts": max(at["prompts"] for at in used),
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_new_tokens": settings.max_new_tokens,
        "dtype": target.dtype_name,
        "device": target.device.type,
        "seed": settings.seed,
        "acceptance_rule": SERVED_TEXT,
        "served_by": f"{server.model} at {server.base_url}",
    }
