"""Everything that is measured of a draft, in order, written as Parquet tables and one summary.

measure/positions.parquet   exact acceptance at every token of the target's own text
measure/prompts.parquet     sums a prompt: exact acceptance and the sampled trace; the question in words
measure/rounds.parquet      rounds of the trace with their seconds
measure/tokens.parquet      every token of the trace: fate, p, q, u, and the likeliest of its position
measure/speed.parquet       timed answers: plain, speculative and Transformers' own, in turn
measure/summary.json        metrics with intervals, conditions, cost model, certificate
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from engine.capture.store import AnsweredPrompt, Capture
from engine.config.schema import MeasureSpec
from engine.decode.events import Round
from engine.decode.sampling import Sampling
from engine.decode.speculative import AdaptiveLength, DraftLength, FixedLength, speculative_decode
from engine.errors import DraftbenchError
from engine.fileio import disk_errors
from engine.measure import certificate as lossless
from engine.measure import certificate_pair, cost_model, speed, trace
from engine.measure.acceptance import exact_acceptance
from engine.measure.exact_tables import exact_metrics, improvement, metric_row, position_rows, prompt_table
from engine.measure.statistics import bootstrap_ratio, calibration_z, paired_ratio
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.progress import SILENT, Progress
from engine.records.summary import Summary

ACCEPTANCE_RULE = "sampled: u < p/q, q the sampled distribution; greedy: one-hot p and q"
ALARM_Z = 4.0  # an engine without fault exceeds it once in 16,000 traces
_TRACE_BATCH = 12
PAIR_DRAWS = 4000  # of the chi-square of the pair, at all its places
_ALTERNATIVES = 10  # likeliest tokens of p and of q kept at each position of a trace


@dataclass(frozen=True)
class Measured:
    """Summary and tables of one measurement, not yet on disk."""

    summary: Summary
    tables: dict[str, pd.DataFrame]

    def save(self, folder: Path) -> None:
        """Write tables first, the summary last: a summary means the tables are whole, and all of this measurement."""
        folder.mkdir(parents=True, exist_ok=True)
        with disk_errors(folder):
            (folder / Path(Summary.FILE).name).unlink(missing_ok=True)
            for name, table in self.tables.items():
                temporary = folder / f".{name}.new"
                table.to_parquet(temporary, index=False)
                temporary.replace(folder / f"{name}.parquet")
            for earlier in folder.glob("*.parquet"):
                if earlier.stem not in self.tables:
                    earlier.unlink()
        self.summary.write(folder.parent)


def measure_drafts(
    target: LoadedModel,
    target_float32: LoadedModel,
    drafts: Mapping[str, Draft],
    drafts_float32: Mapping[str, Draft],
    captures: Mapping[float, Capture],
    prompt_ids: Sequence[str],
    settings: MeasureSpec,
    *,
    heldout_hash: str,
    texts: Mapping[str, str] | None = None,
    progress: Progress = SILENT,
) -> Measured:
    """Measure 'initial' (exact acceptance only) and 'trained' (everything) on held-out prompts.

    `captures` holds the target's answers to them at each temperature, `prompt_ids` those to
    measure on, `texts` what each asks in words. The float32 pair serves the certificate.
    """
    chosen = {t: [a for a in c.answers if a.prompt_id in set(prompt_ids)] for t, c in captures.items()}
    order = {prompt_id: i for i, prompt_id in enumerate(prompt_ids)}
    for answers in chosen.values():
        answers.sort(key=lambda a: order[a.prompt_id])
    if not prompt_ids or any(len(answers) != len(prompt_ids) for answers in chosen.values()):
        raise DraftbenchError(
            "no held-out prompt is left to measure on", "", "give more prompts.heldout, or lower train.eval_prompts"
        )
    boot = {"samples": settings.bootstrap_samples, "seed": settings.seed}
    metrics: list[dict[str, Any]] = []
    tables: dict[str, list[pd.DataFrame]] = {"positions": [], "prompts": [], "rounds": [], "tokens": []}
    gains: list[dict[str, Any]] = []
    slots: dict[str, Any] = {}
    histograms: dict[str, Any] = {}
    others: dict[str, Any] = {}
    checks: list[lossless.Check] = []
    first = chosen[min(chosen)]
    cost_ratio = _cost_ratio(target, drafts["trained"], first, settings)
    progress.start("measure", len(captures), "temperatures")
    for temperature, capture in captures.items():
        sampling = Sampling(temperature, settings.top_k, settings.top_p)
        exact = {
            name: exact_acceptance(draft.model, Head.of(target.model), capture, sampling, chosen[temperature])
            for name, draft in drafts.items()
        }
        for name, results in exact.items():
            tables["positions"].append(position_rows(results, name, temperature))
            metrics += exact_metrics(results, name, temperature, boot)
        gains.append(improvement(exact["initial"], exact["trained"], temperature, boot))
        traced = chosen[temperature][: settings.trace_prompts]
        rounds = trace_prompts(target, drafts["trained"], traced, sampling, settings, cost_ratio, progress)
        names = [a.prompt_id for a in traced]
        by_prompt = trace.prompt_rows(rounds, names)
        metrics += _sampled_metrics(by_prompt, temperature, boot)
        for name, results in exact.items():
            tables["prompts"].append(
                prompt_table(results, by_prompt if name == "trained" else None, name, temperature, texts or {})
            )
        tables["rounds"].append(_of_trained(trace.round_rows(rounds, names), temperature))
        tables["tokens"].append(_of_trained(trace.token_rows(rounds, names, target.tokenizer), temperature))
        key = str(temperature)
        slots[key] = trace.acceptance_by_slot(rounds, settings.num_draft_tokens)
        histograms[key] = trace.accepted_lengths(rounds, settings.num_draft_tokens)
        others[key] = trace.count(rounds).as_others_report()
        checks.append(_agreement(rounds, temperature))
        if temperature == 0:
            written, exact_text = lossless.texts(rounds, len(traced)), target.dtype == torch.float32
            checks.append(
                certificate_pair.traced_equals_captured(target_float32.model, traced, written, exact=exact_text)
            )
        progress.advance(1)
        progress.stop_if_asked()
    summary: dict[str, Any] = {
        "conditions": _conditions(target, settings, heldout_hash, len(prompt_ids)),
        "metrics": metrics,
        "improvement": gains,
        "by_slot": slots,
        "accepted_lengths": histograms,
        "as_others_report": others,
    }
    whole = {name: pd.concat(parts, ignore_index=True) for name, parts in tables.items()}
    if settings.speed_prompts:
        timed = _time(target, drafts["trained"], first[: settings.speed_prompts], settings, cost_ratio, progress)
        alpha = _examined(metrics, settings.speed_temperature)
        summary["speed"] = _speed_summary(timed, alpha, settings, boot)
        whole["speed"] = pd.DataFrame(
            [{"prompt_id": t.prompt_id, "way": t.way, "tokens": t.tokens, "seconds": t.seconds} for t in timed]
        )
    checks += certificate(
        target, target_float32, drafts["trained"], drafts_float32["trained"], first, settings, progress
    )
    summary["certificate"] = {
        "passed": all(check.passed is not False for check in checks),
        "checks": [check.as_dict() for check in checks],
    }
    return Measured(Summary.of_values(summary), whole)


def _of_trained(table: pd.DataFrame, temperature: float) -> pd.DataFrame:
    table.insert(0, "draft", "trained")
    table.insert(1, "temperature", temperature)
    return table


def trace_prompts(
    target: LoadedModel,
    draft: Draft,
    answers: Sequence[AnsweredPrompt],
    sampling: Sampling,
    settings: MeasureSpec,
    cost_ratio: float,
    progress: Progress = SILENT,
) -> list[Round]:
    """Speculative decoding of the prompts in batches; `row` of a round counts over all of them."""
    rounds: list[Round] = []
    for start in range(0, len(answers), _TRACE_BATCH):
        part = answers[start : start + _TRACE_BATCH]
        for item in speculative_decode(
            target.model,
            draft.model,
            [a.prompt_ids for a in part],
            sampling,
            length=draft_length(settings, cost_ratio),
            max_new_tokens=settings.max_new_tokens,
            stop_ids=target.stop_ids,
            seed=settings.seed,
            names=[a.prompt_id for a in part],
            alternatives=_ALTERNATIVES,
        ):
            rounds.append(replace(item, row=item.row + start))
            progress.stop_if_asked()  # nothing of a measurement is kept before it is whole, so any round will do
    return rounds


def draft_length(settings: MeasureSpec, cost_ratio: float) -> DraftLength:
    """The gamma rule of the settings. `cost_ratio`, c, matters to the adaptive one only."""
    if not settings.adaptive:
        return FixedLength(settings.num_draft_tokens)
    most = settings.num_draft_tokens
    return AdaptiveLength(most, lambda alpha: cost_model.best_gamma(alpha, cost_ratio, most))


def _cost_ratio(target: LoadedModel, draft: Draft, answers: Sequence[AnsweredPrompt], settings: MeasureSpec) -> float:
    """c, measured beforehand because the adaptive rule decides by it; 0 where gamma is fixed."""
    if not settings.adaptive:
        return 0.0
    probe = settings.model_copy(update={"adaptive": False, "speed_tokens": 16})
    timed = _time(target, draft, answers[:2], probe, 0.0, SILENT, ways=("plain", "speculative"))
    return speed.forward_times(timed, settings.num_draft_tokens).cost_ratio


def _sampled_metrics(by_prompt: pd.DataFrame, temperature: float, boot: dict[str, Any]) -> list[dict[str, Any]]:
    parts = {
        "per_proposed": ("accepted", by_prompt.drafted),
        "per_examined": ("accepted", by_prompt.accepted + by_prompt.rejected),
        "per_emitted": ("accepted", by_prompt.emitted),
        "tau": ("emitted", by_prompt.rounds),
    }
    tokens = int(by_prompt.emitted.sum())
    return [
        metric_row("trained", temperature, name, bootstrap_ratio(by_prompt[top], bottom, **boot), tokens)
        for name, (top, bottom) in parts.items()
    ]


def _agreement(rounds: Sequence[Round], temperature: float) -> lossless.Check:
    """Sampled against expected acceptance on one trace: the alarm that the engine has a fault."""
    judged = [t for r in rounds for t in r.tokens if t.overlap is not None]
    result = calibration_z([t.fate == "accepted" for t in judged], [min(1.0, t.overlap or 0.0) for t in judged])
    detail = (
        f"at temperature {temperature:g}, {result.observed:,.0f} of {result.n_tokens:,} judged tokens were accepted, "
        f"{result.expected:,.1f} were expected from sum min(p, q) (z = {result.z:+.2f})"
    )
    return lossless.Check("sampled_equals_expected", abs(result.z) < ALARM_Z, result.n_tokens, detail, result.as_dict())


def certificate(
    target: LoadedModel,
    target_float32: LoadedModel,
    draft: Draft,
    draft_float32: Draft,
    answers: Sequence[AnsweredPrompt],
    settings: MeasureSpec,
    progress: Progress,
) -> list[lossless.Check]:
    """The losslessness checks of this pair, on held-out prompts."""
    prompts = [a.prompt_ids for a in answers[: settings.certificate_prompts]]
    options: dict[str, Any] = {
        "gamma": settings.num_draft_tokens,
        "max_new_tokens": settings.certificate_tokens,
        "stop_ids": target.stop_ids,
    }
    places = certificate_pair.certified_prefixes(answers, settings.certificate_prompts, settings.seed)
    traced = [a.prompt_ids for a in answers[: min(settings.trace_prompts, _TRACE_BATCH)]]
    checks = []
    steps: list[Any] = [
        lambda: lossless.self_draft(target_float32.model, prompts, seed=settings.seed, **options),
        lambda: lossless.greedy_identity(target_float32.model, draft_float32.model, prompts, **options),
        lambda: certificate_pair.ragged_identity(
            target_float32.model,
            draft_float32.model,
            certificate_pair.ragged_rows(traced, settings.certificate_prompts),
            length=FixedLength(settings.num_draft_tokens),
            max_new_tokens=settings.certificate_tokens,
            stop_ids=target.stop_ids,
        ),
        lambda: certificate_pair.pair_chi_square(
            target_float32.model,
            draft_float32.model,
            places,
            Sampling(max(settings.temperatures) or 1.0, settings.top_k, settings.top_p),
            draws=PAIR_DRAWS // len(places),
            seed=settings.seed,
        ),
        lambda: lossless.chi_square(tokens=12_000, seed=settings.seed),
    ]
    if target.dtype != torch.float32:
        steps.append(lambda: lossless.greedy_identity(target.model, draft.model, prompts, **options))
    progress.start("certificate", len(steps), "checks")
    for step in steps:
        checks.append(step())
        progress.advance(1)
        progress.stop_if_asked()
    progress.finish()
    return checks


def _time(
    target: LoadedModel,
    draft: Draft,
    answers: Sequence[AnsweredPrompt],
    settings: MeasureSpec,
    cost_ratio: float,
    progress: Progress,
    ways: Sequence[str] = speed.WAYS,
) -> list[speed.TimedAnswer]:
    return speed.time_ways(
        target.model,
        draft.model,
        [a.prompt_ids for a in answers],
        [a.prompt_id for a in answers],
        Sampling(settings.speed_temperature, settings.top_k, settings.top_p),
        lambda: draft_length(settings, cost_ratio),
        max_new_tokens=settings.speed_tokens,
        seed=settings.seed,
        ways=ways,
        progress=progress,
    )


def _examined(metrics: Sequence[dict[str, Any]], temperature: float) -> float:
    """per_examined acceptance at the temperature of the timing, or at the nearest one measured."""
    rows = [m for m in metrics if m["metric"] == "per_examined"]
    return float(min(rows, key=lambda m: abs(m["temperature"] - temperature))["value"])


def _speed_summary(
    timed: Sequence[speed.TimedAnswer], alpha: float, settings: MeasureSpec, boot: dict[str, Any]
) -> dict[str, Any]:
    ways = {way: [t for t in timed if t.way == way] for way in speed.WAYS}
    seconds = {way: [t.seconds for t in answers] for way, answers in ways.items()}
    tokens = {way: [t.tokens for t in answers] for way, answers in ways.items()}
    times = speed.forward_times(timed, settings.num_draft_tokens)
    gamma, c = settings.num_draft_tokens, times.cost_ratio
    slope = (times.verify_s - times.plain_s) / gamma  # a verify pass grows about linearly with its rows

    def faster_than(way: str) -> dict[str, Any]:
        """Tokens a second of speculative decoding over those of another way, paired by prompt."""
        return paired_ratio(tokens[way], seconds[way], tokens["speculative"], seconds["speculative"], **boot).as_dict()

    return {
        "temperature": settings.speed_temperature,
        "threads": speed.threads(),
        "tokens_per_s": {way: bootstrap_ratio(tokens[way], seconds[way], **boot).as_dict() for way in ways},
        "speedup": faster_than("plain"),
        "speedup_over_transformers": faster_than("transformers"),
        "forward_s": asdict(times),
        "time_split": speed.time_split(timed),
        "cost_ratio": c,
        "alpha": alpha,
        "predicted_speedup": {
            "formula": cost_model.expected_speedup(alpha, gamma, c),
            "measured_times": cost_model.measured_speedup(
                alpha, gamma, times.plain_s, times.draft_s, times.verify_s, times.overhead_s
            ),
        },
        "best_gamma": cost_model.best_gamma(alpha, c),
        "break_even_alpha": {
            "some_gamma": cost_model.break_even_alpha(c),
            "this_gamma": cost_model.break_even_alpha(c, gamma),
        },
        "by_gamma": [
            asdict(row)
            for row in cost_model.speedup_table(
                alpha,
                8,
                plain_s=times.plain_s,
                draft_s=times.draft_s,
                verify_s=lambda g: max(0.0, times.plain_s + slope * g),
                overhead_s=times.overhead_s,
            )
        ],
    }


def _conditions(target: LoadedModel, settings: MeasureSpec, heldout_hash: str, prompts: int) -> dict[str, Any]:
    """What two measurements must have in common to be compared."""
    return {
        "heldout_hash": heldout_hash,
        "heldout_prompts": prompts,
        "num_draft_tokens": settings.num_draft_tokens,
        "adaptive": settings.adaptive,
        "top_p": settings.top_p,
        "top_k": settings.top_k,
        "max_new_tokens": settings.max_new_tokens,
        "dtype": target.dtype_name,
        "device": target.device.type,
        "threads": speed.threads(),
        "seed": settings.seed,
        "acceptance_rule": ACCEPTANCE_RULE,
        "batch_size": {"trace": _TRACE_BATCH, "speed": 1},
    }
