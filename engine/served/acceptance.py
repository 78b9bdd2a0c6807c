"""Acceptance of a draft by a served model whose weights are not at hand, measured on that model's own text.

    sum_v min(p(v), q(v)) = E_{x ~ p} min(1, q(x) / p(x))

So where the target drew x from p and the server sent p(x), min(1, q(x) / p(x)) is an unbiased estimate of exact
acceptance at that position, from one token instead of the sum over all. At temperature 0 it is greedy agreement,
which is exact.

In the same way 1{x = argmax q} is an unbiased estimate of p(argmax q): the acceptance of a draft that proposes its
likeliest token.

It holds only if x was drawn from the p that was sent: at temperature 1, with nothing cut off. Servers have defaults
of their own, so the text is checked: the likeliest token must come as often as its probability says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
import torch

from engine.capture.answered import AnsweredPrompt
from engine.capture.batches import collate, sequence_tokens
from engine.capture.grouping import FORWARD_TOKENS, group_by_length
from engine.capture.store import Capture
from engine.config.schema import MeasureSpec, ServerSpec
from engine.decode.sampling import Sampling
from engine.errors import DraftbenchError
from engine.measure.acceptance import PromptAcceptance, draft_side
from engine.measure.definitions import SERVED_TEXT
from engine.measure.exact_tables import exact_metrics, improvements, position_rows, prompt_table
from engine.measure.statistics import ALARM_Z, Resampling, calibration_z
from engine.measure.suite import Measured
from engine.models.draft import Draft
from engine.models.head import Head, chunk_size, hidden_states
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.interval import Calibration
from engine.records.summary import Conditions, Improvement, Metric, Served, ServedText, Summary
from engine.served.logprobs import decode_logprobs


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
    """Measure 'initial' and 'trained' against the server's answers: as the suite does, as far as text and p(x) go.

    `captures`: answers with the server's log-probabilities, by temperature. `target` is a model at hand, which gives
    only vocabulary, precision and device. There are no sampled rates, tau, speed or certificate: they need the target
    to run here. Raises DraftbenchError if no token can be used, or the text was not drawn from the probabilities sent.
    """
    resampling = Resampling(samples=settings.bootstrap_samples, seed=settings.seed)
    metrics: list[Metric] = []
    gains: list[Improvement] = []
    tables: dict[str, list[pd.DataFrame]] = {"positions": [], "prompts": []}
    used: list[ServedText] = []
    progress.start("measure", len(captures), "temperatures")
    for temperature, capture in captures.items():
        by_id = {answer.prompt_id: answer for answer in capture.answers}
        answers = [by_id[prompt_id] for prompt_id in prompt_ids]
        calibration = _calibration(capture, answers, temperature, server)
        if calibration is None and temperature > 0:
            progress.note(
                f"{server.model} does not send its likeliest tokens (`top_logprobs`): it could not be checked that its "
                f"text at temperature {temperature:g} is drawn from the probabilities it sends"
            )
        exact = {
            name: served_acceptance(draft.model, capture, temperature, target.vocab_rows, answers)
            for name, draft in drafts.items()
        }
        for name, results in exact.items():
            tables["positions"].append(position_rows(results, name, temperature))
            tables["prompts"].append(prompt_table(results, None, name, temperature, texts or {}))
            metrics += exact_metrics(results, name, temperature, resampling)
        gains += improvements(exact["initial"], exact["trained"], temperature, resampling)
        used.append(_used(exact["trained"], answers, temperature, calibration))
        progress.advance(1)
        progress.stop_if_asked()
    progress.finish()
    summary = Summary(
        conditions=_conditions(target, settings, server, heldout_hash, used),
        metrics=metrics,
        improvement=gains,
        served=Served(base_url=server.base_url, model=server.model, positions=used),
    )
    return Measured(summary, {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()})


@torch.no_grad()
def served_acceptance(
    draft_model: Any, capture: Capture, temperature: float, vocab_rows: int, answers: Sequence[AnsweredPrompt]
) -> list[PromptAcceptance]:
    """min(1, q(x) / p(x)) at the tokens x of some answers whose id and probability are certain.

    Answers without such a token are left out. `vocab_rows`: of the target. The draft runs in its own dtype.
    """
    head, sampling = Head.of(draft_model), Sampling(temperature)
    acceptance: dict[int, PromptAcceptance] = {}
    for group in group_by_length([sequence_tokens(a) for a in answers], FORWARD_TOKENS):
        batch = collate(capture, [answers[i] for i in group], draft_model.device)
        hidden = hidden_states(draft_model, batch.ids, batch.mask, is_draft=True)[batch.responds]
        drawn, likeliest = _draft_at(head, hidden, batch.token_ids, sampling, vocab_rows)
        target_prob = decode_logprobs(batch.raw_signal)[0].exp()
        hit = likeliest == batch.token_ids.cpu()
        columns = [torch.split(column, batch.lengths) for column in (drawn, target_prob, hit)]
        for row, (q, p, same) in zip(group, zip(*columns, strict=True), strict=True):
            if bool((torch.isfinite(p) & (p > 0)).any()):
                acceptance[row] = _of_answer(answers[row], q, p, same, greedy=temperature == 0)
    return [acceptance[row] for row in sorted(acceptance)]


def _of_answer(
    answer: AnsweredPrompt, q: torch.Tensor, p: torch.Tensor, hit: torch.Tensor, *, greedy: bool
) -> PromptAcceptance:
    """The answer's acceptance at the positions where p is known; q and p of its tokens: [token], float32.

    hit: [token], whether a token is the draft's likeliest; of greedy text that is agreement with the target's choice.
    """
    known = (torch.isfinite(p) & (p > 0)).nonzero().squeeze(-1)
    q, p, hit = q[known], p[known], hit[known]
    return PromptAcceptance(
        answer.prompt_id,
        answer.group,
        token_ids=[answer.token_ids[i] for i in known.tolist()],
        overlap=(q / p).clamp_max(1.0),
        agree=hit if greedy else None,
        target_prob=p,
        draft_prob=q,
        argmax_prob=hit.float(),
        hit=hit,
        positions=known.tolist(),
        prompt_tokens=len(answer.prompt_ids),
    )


def _draft_at(
    head: Head, hidden: torch.Tensor, token_ids: torch.Tensor, sampling: Sampling, vocab_rows: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """q of the token written and the draft's likeliest id, [position] each, on the CPU. hidden: [position, width]."""
    size = chunk_size(vocab_rows)
    parts = []
    for part, ids in zip(torch.split(hidden, size), torch.split(token_ids, size), strict=True):
        side = draft_side(head, part, sampling, vocab_rows)
        parts.append((side.of(ids).cpu(), side.likeliest.cpu()))
    drawn, likeliest = zip(*parts, strict=True)
    return torch.cat(drawn), torch.cat(likeliest)


def _calibration(
    capture: Capture, answers: Sequence[AnsweredPrompt], temperature: float, server: ServerSpec
) -> Calibration | None:
    """Compare how often the likeliest token came with how often it should; None where nothing can be compared."""
    pieces = [decode_logprobs(capture.raw_signal(answer)) for answer in answers]
    drawn, top = (torch.cat(column) for column in zip(*pieces, strict=True))
    if not torch.isfinite(drawn).any():
        raise DraftbenchError(
            f"no token of {server.model} at temperature {temperature:g} has a certain id and a probability",
            "the server sends no log-probabilities, or its tokens are not those of the model at hand",
            "name a model with the served one's tokenizer in target.model, or measure with "
            "`draftbench measure RUN --set measure.against=model`",
        )
    both = torch.isfinite(drawn) & torch.isfinite(top)
    if temperature == 0 or not both.any():
        return None
    calibration = calibration_z((drawn[both] >= top[both]).numpy(), top[both].exp().numpy())
    if abs(calibration.z) >= ALARM_Z:
        raise _miscalibrated(calibration, server)
    return calibration


def _miscalibrated(calibration: Calibration, server: ServerSpec) -> DraftbenchError:
    return DraftbenchError(
        f"{server.model} wrote its likeliest token {calibration.observed:,.0f} times in {calibration.n_tokens:,}, but "
        f"by the probabilities it sends it would be {calibration.expected:,.0f} times (z = {calibration.z:+.1f})",
        "its text is not drawn from these probabilities: something cuts or sharpens them (top_k, min_p, a penalty), or "
        "they are of another temperature, and acceptance would be wrong",
        "start the server without sampling settings of its own (vLLM: --generation-config vllm), or measure at "
        "temperature 0 alone: `draftbench measure RUN --set measure.temperatures=[0]`",
    )


def _used(
    results: Sequence[PromptAcceptance],
    answers: Sequence[AnsweredPrompt],
    temperature: float,
    calibration: Calibration | None,
) -> ServedText:
    """How much of the text the metrics cover."""
    tokens, whole = sum(len(r.token_ids) for r in results), sum(len(a.token_ids) for a in answers)
    return ServedText(
        temperature=temperature,
        used=tokens,
        left_out=whole - tokens,
        prompts=len(results),
        asked=len(answers),
        calibration=calibration,
    )


def _conditions(
    target: LoadedModel, settings: MeasureSpec, server: ServerSpec, heldout_hash: str, used: Sequence[ServedText]
) -> Conditions:
    """The conditions that two comparable measurements share. These rates do not depend on gamma."""
    return Conditions(
        heldout_hash=heldout_hash,
        heldout_prompts=max(at.prompts for at in used),
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=settings.max_new_tokens,
        dtype=target.dtype_name,
        quantize=target.weights,
        device=target.device.type,
        seed=settings.seed,
        acceptance_rule=SERVED_TEXT,
        served_by=f"{server.model} at {server.base_url}",
    )
