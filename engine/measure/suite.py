"""Everything that is measured of a draft, in order, written as Parquet tables and one summary.

measure/positions.parquet   expected acceptance at every token of the target's own text, and the target's entropy there
measure/prompts.parquet     sums per prompt: expected acceptance and the sampled trace; the question in words
measure/rounds.parquet      rounds of the trace with their seconds
measure/tokens.parquet      every token of the trace: fate, p, q, u, and the likeliest of its position
measure/speed.parquet       timed answers: plain, speculative and Transformers' own, in turn
measure/summary.json        metrics with intervals, conditions, cost model, certificate
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from engine.capture.answered import AnsweredPrompt
from engine.capture.store import Capture
from engine.catalogue import Proposals
from engine.chat.prompt import Prompt, prompts_hash
from engine.config.schema import MeasureSpec
from engine.decode.counts import count
from engine.decode.events import Round
from engine.decode.sampling import Sampling
from engine.decode.settings import AdaptiveLength, DecodeSettings, DraftLength, FixedLength
from engine.decode.speculative import speculative_decode
from engine.errors import DraftbenchError
from engine.fileio import disk_errors, write_json
from engine.measure import certificate as lossless
from engine.measure import certificate_pair, cost_model, speed, trace
from engine.measure.acceptance import PromptAcceptance, exact_of_drafts
from engine.measure.definitions import RATES
from engine.measure.exact_tables import exact_metrics, improvements, metric_of, position_rows, prompt_table
from engine.measure.load import LoadMeter
from engine.measure.speed_summary import speed_summary, speed_table
from engine.measure.statistics import ALARM_Z, Resampling, bootstrap_ratio, calibration_z
from engine.models.draft import Draft
from engine.models.head import Head
from engine.models.load import LoadedModel
from engine.models.quantised import is_exact
from engine.progress import SILENT, Progress
from engine.records.certificate import Certificate, Check
from engine.records.speed import MachineLoad
from engine.records.summary import BatchSizes, Conditions, Metric, OtherSystems, Summary

ACCEPTANCE_RULE = "sampled: u < p/q, q the sampled distribution; greedy: one-hot p and q"
_SUMMARY = Path(Summary.FILE).name
_TRACE_BATCH = 12
_SELF_DRAFT_TOKENS = 16  # of a prompt, its last ones
PAIR_DRAWS = 4000  # of the chi-square of the pair, at all its places
_ALTERNATIVES = 10  # likeliest tokens of p and of q kept at each position of a trace


@dataclass(frozen=True)
class Measured:
    """Summary and tables of one measurement, not yet on disk."""

    summary: Summary
    tables: dict[str, pd.DataFrame]

    def save(self, folder: Path) -> None:
        """Replace the measurement in the folder: a summary there means the tables are whole, and all of the same one.

        Everything is written beside it first. So a disk that is full, or a kill, costs no earlier measurement.
        """
        new = folder / ".new"
        with disk_errors(folder):
            shutil.rmtree(new, ignore_errors=True)
            new.mkdir(parents=True)
            try:
                for name, table in self.tables.items():
                    table.to_parquet(new / f"{name}.parquet", index=False)
                write_json(new / _SUMMARY, self.summary.document())
                _put_in_place(new, folder)
            finally:
                shutil.rmtree(new, ignore_errors=True)


def _put_in_place(new: Path, folder: Path) -> None:
    """Move the files of a measurement from `new` to `folder`, where nothing but it stays; the summary last."""
    (folder / _SUMMARY).unlink(missing_ok=True)
    tables = {table.name for table in new.glob("*.parquet")}
    for name in sorted(tables):
        (new / name).replace(folder / name)
    for earlier in folder.glob("*.parquet"):
        if earlier.name not in tables:
            earlier.unlink()
    (new / _SUMMARY).replace(folder / _SUMMARY)


@dataclass(frozen=True)
class Pair:
    """A target and a draft in memory, in one precision."""

    target: LoadedModel
    draft: Draft


@dataclass(frozen=True)
class AtTemperature:
    """The measurement at one temperature.

    `exact` holds the acceptance of the drafts 'initial' and 'trained' at every token of the target's own text. `rounds`
    is the trace: the prompts with the ids `traced`, decoded speculatively with the trained draft.
    """

    temperature: float
    exact: dict[str, list[PromptAcceptance]]
    traced: list[str]
    rounds: list[Round]

    @cached_property
    def counts(self) -> pd.DataFrame:
        """Counts of the trace, a row per prompt."""
        return trace.prompt_rows(self.rounds, self.traced)

    def metrics(self, resampling: Resampling) -> list[Metric]:
        """Exact acceptance of both drafts, and the sampled rates of the trained one, with intervals over prompts."""
        counts, tokens = self.counts, int(self.counts.emitted.sum())
        sampled = {
            name: (counts[rate.numerator], counts[list(rate.denominator)].sum(axis=1))
            for name, rate in RATES.items()
            if {rate.numerator, *rate.denominator} <= set(counts.columns)
        }
        exact = [exact_metrics(results, name, self.temperature, resampling) for name, results in self.exact.items()]
        return [row for rows in exact for row in rows] + [
            metric_of("trained", self.temperature, name, bootstrap_ratio(top, bottom, **resampling), tokens)
            for name, (top, bottom) in sampled.items()
        ]

    def tables(self, texts: Mapping[str, str], tokenizer: Any) -> dict[str, list[pd.DataFrame]]:
        """The rows of this temperature in each table. `texts`: what the prompts ask in words, by prompt id."""
        at, exact = self.temperature, self.exact.items()
        rounds = trace.round_rows(self.rounds, self.traced)
        tokens = trace.token_rows(self.rounds, self.traced, tokenizer)
        for table in (rounds, tokens):
            table.insert(0, "draft", "trained")
            table.insert(1, "temperature", at)
        return {
            "positions": [position_rows(results, name, at) for name, results in exact],
            "prompts": [
                prompt_table(results, self.counts if name == "trained" else None, name, at, texts)
                for name, results in exact
            ],
            "rounds": [rounds],
            "tokens": [tokens],
        }


def measure_drafts(
    pair: Pair,
    initial: Draft | None,
    exact: Pair,
    captures: Mapping[float, Capture],
    prompts: Sequence[Prompt],
    settings: MeasureSpec,
    *,
    progress: Progress = SILENT,
) -> Measured:
    """Measure the pair's draft in full, and the exact acceptance of the draft `initial`, on held-out prompts.

    Without `initial` the pair's draft was not trained: it is measured as it is.

    `captures` holds the target's answers to the prompts, and perhaps to others, at each temperature. `exact` is the
    pair in float32, for the certificate. Raises DraftbenchError if there is no prompt to measure on, Cancelled between
    two steps if asked to stop.
    """
    answers = {temperature: _answers(capture, prompts) for temperature, capture in captures.items()}
    first = answers[min(answers)]
    resampling = Resampling(samples=settings.bootstrap_samples, seed=settings.seed)
    cost_ratio = _cost_ratio(pair, first, settings)
    measured: list[AtTemperature] = []
    checks: list[Check] = []
    tokens = settings.trace_prompts * settings.max_new_tokens
    progress.start("measure", len(captures) * tokens, "tokens")
    for temperature, capture in captures.items():
        decoding = decode_settings(settings, temperature, pair.target.stop_ids, cost_ratio)
        traced = answers[temperature][: settings.trace_prompts]
        result = at_temperature(pair, initial, capture, answers[temperature], traced, decoding, progress)
        measured.append(result)
        checks += _trace_checks(result, traced, pair, exact, settings.proposals)
        progress.advance(max(0, tokens - sum(len(item.emitted) for item in result.rounds)))  # answers that ended early
        progress.stop_if_asked()
    timed: list[speed.TimedAnswer] = []
    load = None
    if settings.speed_prompts:
        meter = LoadMeter()
        timed = _time(pair, first[: settings.speed_prompts], settings, cost_ratio, progress)
        load = meter.read()
    checks += certificate(pair, exact, first, settings, progress, timed)
    under = conditions(pair.target, settings, prompts)
    return Measured(
        _summary(measured, timed, load, checks, under, settings, resampling),
        _tables(measured, timed, pair.target, prompts),
    )


def _answers(capture: Capture, prompts: Sequence[Prompt]) -> list[AnsweredPrompt]:
    """The answers to the prompts, in their order."""
    by_id = {answer.prompt_id: answer for answer in capture.answers}
    answers = [by_id[prompt.id] for prompt in prompts if prompt.id in by_id]
    if not prompts or len(answers) != len(prompts):
        raise DraftbenchError(
            "no held-out prompt is left to measure on", "", "give more prompts.heldout, or lower train.eval_prompts"
        )
    return answers


def at_temperature(
    pair: Pair,
    initial: Draft | None,
    capture: Capture,
    answers: Sequence[AnsweredPrompt],
    traced: Sequence[AnsweredPrompt],
    decoding: DecodeSettings,
    progress: Progress = SILENT,
) -> AtTemperature:
    """Read the drafts against the captured answers, and decode the prompts of the `traced` ones."""
    before = {} if initial is None else {"initial": initial.model}
    drafts, head = {**before, "trained": pair.draft.model}, Head.of(pair.target.model)
    return AtTemperature(
        decoding.sampling.temperature,
        exact_of_drafts(drafts, head, capture, decoding.sampling, answers, with_entropy=True),
        [answer.prompt_id for answer in traced],
        trace_prompts(pair, traced, decoding, progress),
    )


def decode_settings(
    settings: MeasureSpec, temperature: float, stop_ids: frozenset[int], cost_ratio: float
) -> DecodeSettings:
    """The decode settings of a temperature's trace. `cost_ratio`, c, matters to an adaptive gamma only."""
    sampling = Sampling(temperature, settings.top_k, settings.top_p)
    length = draft_length(settings, cost_ratio)
    return DecodeSettings(sampling, length, settings.max_new_tokens, stop_ids, settings.seed, settings.proposals)


def draft_length(settings: MeasureSpec, cost_ratio: float) -> DraftLength:
    """The gamma rule of the settings. `cost_ratio`, c, matters to the adaptive one only."""
    most = settings.num_draft_tokens
    if not settings.adaptive:
        return FixedLength(most)
    return AdaptiveLength(most, lambda alpha: cost_model.best_gamma(alpha, cost_ratio, most))


def trace_prompts(
    pair: Pair,
    answers: Sequence[AnsweredPrompt],
    decoding: DecodeSettings,
    progress: Progress = SILENT,
    *,
    alternatives: int = _ALTERNATIVES,
) -> list[Round]:
    """Decode the prompts of some answers speculatively, in batches; `row` of a round counts over all of them."""
    rounds: list[Round] = []
    for start in range(0, len(answers), _TRACE_BATCH):
        part = answers[start : start + _TRACE_BATCH]
        for item in speculative_decode(
            pair.target.model,
            pair.draft.model,
            [answer.prompt_ids for answer in part],
            decoding,
            names=[answer.prompt_id for answer in part],
            alternatives=alternatives,
        ):
            rounds.append(replace(item, row=item.row + start))
            progress.advance(len(item.emitted))
            progress.stop_if_asked()  # nothing of a measurement is kept before it is whole, so any round will do
    return rounds


def _trace_checks(
    result: AtTemperature, traced: Sequence[AnsweredPrompt], pair: Pair, exact: Pair, proposals: Proposals
) -> list[Check]:
    """Check the trace: as many tokens accepted as expected and, at temperature 0, the text that was captured."""
    checks = [_agreement(result.rounds, result.temperature, proposals)]
    if result.temperature == 0:
        written, in_float32 = lossless.texts(result.rounds, len(traced)), is_exact(pair.target.model)
        checks.append(certificate_pair.traced_equals_captured(exact.target.model, traced, written, exact=in_float32))
    return checks


def _agreement(rounds: Sequence[Round], temperature: float, proposals: Proposals) -> Check:
    """Sampled against expected acceptance on one trace: the alarm that the engine has a fault.

    The overlap of a token that was proposed as the likeliest is p of it, as q is one-hot.
    """
    judged = [t for r in rounds for t in r.tokens if t.overlap is not None]
    result = calibration_z([t.fate == "accepted" for t in judged], [min(1.0, t.overlap or 0.0) for t in judged])
    expected_from = "sum min(p, q)" if proposals == "sampled" else "p(argmax q)"
    detail = (
        f"at temperature {temperature:g}, {result.observed:,.0f} of {result.n_tokens:,} judged tokens were accepted, "
        f"{result.expected:,.1f} were expected from {expected_from} (z = {result.z:+.2f})"
    )
    return Check(
        name="sampled_equals_expected",
        passed=abs(result.z) < ALARM_Z,
        n_tokens=result.n_tokens,
        detail=detail,
        figures={**result.as_dict()},
    )


def certificate(
    pair: Pair,
    exact: Pair,
    answers: Sequence[AnsweredPrompt],
    settings: MeasureSpec,
    progress: Progress,
    timed: Sequence[speed.TimedAnswer] = (),
) -> list[Check]:
    """The losslessness checks of a pair on held-out prompts; `exact` is the pair in float32, `timed` the pair's timing.

    The self-draft tries the rules of sampling, which need little text before them; the other checks read whole prompts.
    """
    target, draft = exact.target.model, exact.draft.model
    prompts = [a.prompt_ids for a in answers[: settings.certificate_prompts]]
    sampling = Sampling(max(settings.temperatures) or 1.0, settings.top_k, settings.top_p)
    length, proposals = FixedLength(settings.num_draft_tokens), settings.proposals
    short = DecodeSettings(
        sampling, length, settings.certificate_tokens, pair.target.stop_ids, settings.seed, proposals
    )
    places = certificate_pair.certified_prefixes(answers, settings.certificate_prompts, settings.seed)
    traced = [a.prompt_ids for a in answers[: min(settings.trace_prompts, _TRACE_BATCH)]]
    ragged = certificate_pair.ragged_rows(traced, settings.certificate_prompts)
    draws = PAIR_DRAWS // len(places)
    steps: list[Callable[[], Check]] = [
        lambda: lossless.self_draft(target, [ids[-_SELF_DRAFT_TOKENS:] for ids in prompts], short),
        lambda: lossless.greedy_identity(target, draft, prompts, short),
        lambda: certificate_pair.ragged_identity(target, draft, ragged, short),
        lambda: certificate_pair.pair_chi_square(
            target, draft, places, sampling, draws=draws, seed=settings.seed, proposals=proposals
        ),
        lambda: lossless.chi_square(tokens=12_000, seed=settings.seed, proposals=proposals),
    ]
    if not is_exact(pair.target.model):
        steps.append(lambda: _margins(pair, answers, prompts, short, timed if settings.speed_temperature == 0 else ()))
    checks = []
    progress.start("certificate", len(steps), "checks")
    for step in steps:
        checks.append(step())
        progress.advance(1)
        progress.stop_if_asked()
    progress.finish()
    return checks


def _margins(
    pair: Pair,
    answers: Sequence[AnsweredPrompt],
    prompts: Sequence[Sequence[int]],
    short: DecodeSettings,
    timed: Sequence[speed.TimedAnswer],
) -> Check:
    """Greedy texts in low precision, both ways: those that were timed at temperature 0, else those of the prompts."""
    plain, speculative = (
        {t.prompt_id: lossless.texts(t.rounds, 1)[0] for t in timed if t.way == way} for way in ("plain", "speculative")
    )
    if not plain:
        return lossless.greedy_identity(pair.target.model, pair.draft.model, prompts, short)
    asked = {a.prompt_id: a.prompt_ids for a in answers}
    return lossless.same_greedy_text(
        pair.target.model, [asked[name] for name in plain], list(plain.values()), [speculative[name] for name in plain]
    )


def _time(
    pair: Pair,
    answers: Sequence[AnsweredPrompt],
    settings: MeasureSpec,
    cost_ratio: float,
    progress: Progress,
    ways: Sequence[str] = speed.WAYS,
) -> list[speed.TimedAnswer]:
    decoding = decode_settings(settings, settings.speed_temperature, frozenset(), cost_ratio)
    return speed.time_ways(
        pair.target.model,
        pair.draft.model,
        {answer.prompt_id: answer.prompt_ids for answer in answers},
        replace(decoding, max_new_tokens=settings.speed_tokens),
        ways=ways,
        progress=progress,
    )


def _cost_ratio(pair: Pair, answers: Sequence[AnsweredPrompt], settings: MeasureSpec) -> float:
    """c, measured beforehand because the adaptive rule decides by it; 0 where gamma is fixed."""
    if not settings.adaptive:
        return 0.0
    probe = settings.model_copy(update={"adaptive": False, "speed_tokens": 16})
    timed = _time(pair, answers[:2], probe, 0.0, SILENT, ways=("plain", "speculative"))
    return speed.forward_times(timed, settings.num_draft_tokens).cost_ratio


def _tables(
    measured: Sequence[AtTemperature],
    timed: Sequence[speed.TimedAnswer],
    target: LoadedModel,
    prompts: Sequence[Prompt],
) -> dict[str, pd.DataFrame]:
    texts = {prompt.id: prompt.text for prompt in prompts}
    parts = [result.tables(texts, target.tokenizer) for result in measured]
    tables = {name: pd.concat([t for part in parts for t in part[name]], ignore_index=True) for name in parts[0]}
    return {**tables, "speed": speed_table(timed)} if timed else tables


def _summary(
    measured: Sequence[AtTemperature],
    timed: Sequence[speed.TimedAnswer],
    load: MachineLoad | None,
    checks: Sequence[Check],
    under: Conditions,
    settings: MeasureSpec,
    resampling: Resampling,
) -> Summary:
    gamma = settings.num_draft_tokens
    metrics = [row for result in measured for row in result.metrics(resampling)]
    gains = [
        improvements(r.exact["initial"], r.exact["trained"], r.temperature, resampling)
        for r in measured
        if "initial" in r.exact
    ]
    timing = None
    if timed:
        examined = _examined(metrics, settings.speed_temperature)
        timing = speed_summary(timed, examined.value, examined.temperature, load, settings, resampling)
    return Summary(
        subject="trained draft" if gains else "draft as it is",
        conditions=under,
        metrics=metrics,
        improvement=[row for rows in gains for row in rows],
        by_slot={r.temperature: trace.acceptance_by_slot(r.rounds, gamma) for r in measured},
        accepted_lengths={r.temperature: trace.accepted_lengths(r.rounds, gamma) for r in measured},
        as_others_report={r.temperature: _as_others_report(r.rounds) for r in measured},
        speed=timing,
        certificate=Certificate.of(checks),
    )


def _as_others_report(rounds: Sequence[Round]) -> OtherSystems:
    return OtherSystems(**count(rounds).as_others_report(empty=sum(not item.drafted for item in rounds)))


def _examined(metrics: Sequence[Metric], temperature: float) -> Metric:
    """per_examined acceptance at the temperature of the timing, or at the nearest one measured."""
    rows = [m for m in metrics if m.metric == "per_examined"]
    return min(rows, key=lambda m: abs(m.temperature - temperature))


def conditions(target: LoadedModel, settings: MeasureSpec, prompts: Sequence[Prompt]) -> Conditions:
    """The conditions that two measurements must share to be compared. `prompts`: those that were measured."""
    return Conditions(
        heldout_hash=prompts_hash(prompts),
        heldout_prompts=len(prompts),
        num_draft_tokens=settings.num_draft_tokens,
        adaptive=settings.adaptive,
        proposals=settings.proposals,
        top_p=settings.top_p,
        top_k=settings.top_k,
        max_new_tokens=settings.max_new_tokens,
        dtype=target.dtype_name,
        quantize=target.weights,
        device=target.device.type,
        placed=target.placed or None,
        threads=speed.threads(),
        seed=settings.seed,
        acceptance_rule=ACCEPTANCE_RULE,
        batch_size=BatchSizes(trace=_TRACE_BATCH, speed=1),
    )
