"""The tables of a comparison: rates as a paper prints them, speeds, settings that differ, the origin of each draft."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from engine.catalogue import SERVERS
from engine.index.queries import Run
from engine.measure import speed_words
from engine.measure.decision import decide
from engine.measure.definitions import OTHERS, RATES
from engine.numbers import interval, number, ratio, share
from engine.records.interval import Interval
from engine.records.summary import Conditions
from engine.records.training import Training
from engine.runs.draft_size import DraftSize, draft_size
from engine.runs.folder import RunFolder
from engine.runs.trained_alike import unequal_text
from workbench.compare.comparison import Comparison, Draft, at_temperature, change_words, rate_words, word
from workbench.shared import queries


def paper_table(comparison: Comparison) -> pd.DataFrame:
    """The rates as a paper prints them: a row per rate, with each draft's value and its change, with intervals.

    `n`: prompts of each draft's rate, `n of change`: prompts in pairs; where the drafts differ, in their order.
    """
    rows: list[dict[str, str]] = []
    for metric in RATES:
        row = {"rate": metric}
        of_rate = comparison.rates[comparison.rates.metric == metric]
        for rate in of_rate.itertuples():
            label = str(rate.label)
            row[label] = _value(rate)
            if rate.run_id != comparison.baseline:
                row[f"Δ {label}"] = _change(rate, comparison.letter)
        row["n"] = _counts(of_rate.n_prompts)
        if len(comparison.drafts) > 1:
            row["n of change"] = _counts(of_rate[of_rate.run_id != comparison.baseline].delta_prompts)
        rows.append(row)
    return pd.DataFrame(rows)


def _value(rate: Any) -> str:
    if pd.isna(rate.value):
        return "–"
    words = rate_words(rate)
    return f"{rate.value:.3f} {f'({words})' if words.startswith('n') else words}".rstrip()


def _change(rate: Any, baseline: str) -> str:
    if rate.reason:
        return "not comparable"
    return "–" if pd.isna(rate.delta) else change_words(rate, baseline, marked=False)


def _counts(prompts: pd.Series) -> str:
    """'60', or '16 / 2' where the drafts differ."""
    words = [number(n, 0) if pd.notna(n) else "–" for n in prompts]
    return words[0] if len(set(words)) == 1 else " / ".join(words)


def speed_table(comparison: Comparison) -> pd.DataFrame:
    """The measured speed of each timed draft, a row per draft."""
    rows = []
    for draft in comparison.drafts:
        speed = draft.run.summary.speed
        if not speed:
            continue
        gain, split = speed.speedup or Interval(), speed.time_split
        rows.append(
            {
                "draft": draft.label,
                "speed-up (times)": ratio(gain),
                "plain (tokens/s)": interval(speed.tokens_per_s.get("plain", Interval()), 1),
                "speculative (tokens/s)": interval(speed.tokens_per_s.get("speculative", Interval()), 1),
                "verdict": decide(draft.run.summary, []).answer,
                "c": number(speed.cost_ratio),
                "time: draft, verify, rest": ", ".join(map(share, (split.draft, split.verify, split.overhead))),
                "best gamma by the formula": str(speed.best_gamma or "none: do not speculate"),
                "n": f"{gain.n_prompts} prompts",
                "measured on": speed_words.measured_where(draft.run.summary, draft.run.provenance),
            }
        )
    return pd.DataFrame(rows)


def verdicts(comparison: Comparison) -> pd.DataFrame:
    """Whether to serve each draft, and why; a row per draft, also of those that were not timed."""
    decided = [(draft.label, decide(draft.run.summary, [])) for draft in comparison.drafts]
    return pd.DataFrame(
        {"draft": label, "verdict": decision.answer, "why": "; ".join(decision.reasons)} for label, decision in decided
    )


def timing_differs(comparison: Comparison) -> str:
    """Why the speed-ups of these drafts may not be compared; empty if they may. Another gamma is no reason."""
    keys = {"device": "device", "precision": "dtype", "threads": "threads"}
    timed = [draft for draft in comparison.drafts if draft.run.summary.speed]
    seen = {words: {str(getattr(draft.conditions, key) or "?") for draft in timed} for key, words in keys.items()}
    seen["temperature"] = {f"{draft.run.summary.speed.temperature:g}" for draft in timed if draft.run.summary.speed}
    machines = [draft.run.provenance.measured_on for draft in timed]
    seen["processor"] = {machine.processor if machine else "?" for machine in machines}
    return "; ".join(f"{name} is {' or '.join(sorted(values))}" for name, values in seen.items() if len(values) > 1)


def as_others(comparison: Comparison) -> pd.DataFrame:
    """What other systems would print for the same traces: a row per figure, a column per draft."""
    reports = {
        d.label: at_temperature(d.run.summary.as_others_report, comparison.temperature) for d in comparison.drafts
    }
    rows = [
        {
            "figure": other.title,
            "how": other.formula,
            **{label: getattr(report, key, None) for label, report in reports.items()},
        }
        for key, other in OTHERS.items()
    ]
    return pd.DataFrame(rows)


def servers(comparison: Comparison) -> pd.DataFrame:
    """The rate that each server's own figure comes from, and its value: a row per server, a column per draft."""
    values = comparison.rates.set_index(["metric", "label"]).value
    return pd.DataFrame(
        [
            {
                "server": server.title,
                "its figure": server.acceptance or "none",
                "comes from": server.reports,
                **{draft.label: values.get((server.rates[0], draft.label)) for draft in comparison.drafts},
            }
            for server in SERVERS.values()
        ]
    )


def configuration(comparison: Comparison) -> pd.DataFrame:
    """Recipe keys: key, differs, and a column of values per draft; differing ones first."""
    flat = {d.label: _flat(d.run.config) for d in comparison.drafts}
    keys = list(dict.fromkeys(key for values in flat.values() for key in values))
    rows = []
    for key in keys:
        values = {label: settings.get(key, "–") for label, settings in flat.items()}
        rows.append({"key": key, "differs": len(set(values.values())) > 1, **values})
    frame = pd.DataFrame(rows, columns=["key", "differs", *flat])
    return frame.sort_values("differs", ascending=False, kind="stable", ignore_index=True)


def provenance(comparison: Comparison) -> pd.DataFrame:
    """Where each draft comes from: versions, commit, hashes, seeds, training; a row per fact, a column per draft."""
    origins = {d.label: _origin(d) for d in comparison.drafts}
    keys = list(dict.fromkeys(key for facts in origins.values() for key in facts))
    return pd.DataFrame([{"fact": k, **{label: v.get(k, "–") for label, v in origins.items()}} for k in keys])


def _origin(draft: Draft) -> dict[str, str]:
    origin, training = draft.run.provenance, draft.run.training
    versions, source, conditions = origin.versions, origin.source, draft.run.summary.conditions
    prompts, measurement = origin.prompts, origin.measurement
    commit = (source.commit or "–")[:12] + (" with changes" if source.changed else "")
    return {
        "run": draft.id,
        "target": str(draft.run.target),
        "target hash": _hash(origin.target_fingerprint),
        "draft hash": _hash(measurement and measurement.draft_sha256),
        "training prompts": f"{_known(prompts.train)}, hash {_hash(prompts.train_hash)}",
        "held-out prompts": f"{_known(conditions.heldout_prompts)}, hash {_hash(conditions.heldout_hash)}",
        "seeds": ", ".join(f"{k} {v}" for k, v in origin.seeds.document().items()) or "–",
        "draft on disk": _on_disk(draft_size(RunFolder(queries.home().run(draft.id)))),
        "training": "–" if training.steps_done is None else _training(training),
        "measured with": _measured_with(conditions),
        "acceptance rule": _known(conditions.acceptance_rule),
        "versions": ", ".join(f"{k} {versions[k]}" for k in ("draftbench", "torch", "transformers") if k in versions)
        or "–",
        "commit": commit,
        "machine": _known(origin.machine and origin.machine.processor),
    }


def unequal_training(comparison: Comparison) -> list[str]:
    """What differed in the text of trainings that look alike."""
    return unequal_text({draft.label[0]: (draft.run.provenance, draft.run.training) for draft in comparison.drafts})


def _on_disk(size: DraftSize) -> str:
    """Size of the draft's file, of the shared draft that it is an adapter on, and how much of it was trained."""
    parts = [] if size.megabytes is None else [f"{size.megabytes:.1f} MB"]
    parts += [] if size.shared_megabytes is None else [f"{size.shared_megabytes:.1f} MB of a shared draft"]
    parts += [] if size.trained_parameters is None else [f"{size.trained_parameters:,} parameters trained"]
    return ", ".join(parts) or "–"


def _training(training: Training) -> str:
    done = f"{training.steps_done} of {training.steps} steps, {training.tokens_seen or 0:,} tokens"
    return f"{done}, {number(training.seconds, 0)} s"


def _measured_with(conditions: Conditions) -> str:
    where = f"{_known(conditions.precision)} on {_known(conditions.where)}, {_known(conditions.threads)} threads"
    return f"{conditions.proposing or 'gamma –'}, {where}"


def _known(value: Any) -> str:
    return str(value or "–")


def certificate(run: Run) -> str:
    """The state of the losslessness certificate in a word."""
    return {True: "passed", False: "FAILED", None: "not measured"}[
        None if run.certificate is None else bool(run.certificate)
    ]


def _flat(value: Any, name: str = "") -> dict[str, str]:
    """Nested settings as dotted keys; a list of plain values is one value."""
    if isinstance(value, Mapping):
        pairs: Iterable[tuple[str, Any]] = (
            (f"{name}.{key}" if name else str(key), part) for key, part in value.items()
        )
    elif isinstance(value, list) and any(isinstance(part, Mapping) for part in value):
        pairs = ((f"{name}[{i}]", part) for i, part in enumerate(value))
    else:
        return {name: word(value)}
    return {key: text for inner, part in pairs for key, text in _flat(part, inner).items()}


def _hash(value: Any) -> str:
    return str(value)[:12] if value else "–"
