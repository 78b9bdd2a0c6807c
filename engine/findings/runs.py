"""The runs that take part in the findings, and the facts that decide what each may be compared with."""

from __future__ import annotations

import contextlib
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd
from pydantic import ValidationError

from engine.config.decisive import SECTIONS, decisive
from engine.config.schema import LossTerm
from engine.records.provenance import Provenance

Facts = Mapping[str, Any]  # dotted name -> value

# Facts that tell repetitions apart. What changes neither weights nor exact rates is no fact (`engine.config.decisive`).
SEEDS = ("train.seed", "capture.seed")
DAMAGED = "damaged"  # why a run was left out whose documents or sums are not valid
_SIGNAL = ("signal", "signal_top_k")  # of `capture`: how the signal is stored, which black-box training does without
_MEASURED_ON = ("top_p", "top_k", "max_new_tokens", "seed")
_SAME_TRAINING = {"train.mode", "train.seed", "train.distill_temperature", "train.precision"}
SELECTION = "train.selection."  # which tokens are learnt from, whatever the mode


@dataclass(frozen=True)
class Run:
    """A finished run with the facts that decide what it may be compared with."""

    id: str
    facts: Facts
    effort: Mapping[str, Any] = field(
        default_factory=dict
    )  # steps_done, tokens_seen, best_step, n_train, commit, evaluations, watched_at
    config: Mapping[str, Any] = field(default_factory=dict)
    draft_sha256: str | None = None  # of the weights that were measured

    @property
    def seed(self) -> tuple[Any, ...]:
        return tuple(self.facts.get(key) for key in SEEDS)


def select(rows: pd.DataFrame) -> tuple[list[Run], dict[str, int]]:
    """The runs that may take part, and how many others were left out for which reason.

    `rows`: as `engine.index.queries.studied`, newest first.
    """
    left_out = Counter({"not finished": 0, "archived": 0, "failed or without certificate": 0})
    runs = []
    for row in rows.to_dict("records"):
        reason = _reason_to_leave_out(row)
        if reason:
            left_out[reason] += 1
            continue
        try:
            runs.append(_run(row))
        except Exception:  # one damaged run does not keep the others out
            left_out[DAMAGED] += 1
    return runs, dict(left_out)


def _reason_to_leave_out(row: Mapping[Any, Any]) -> str | None:
    if row["archived"] is True:
        return "archived"
    if row["state"] != "done" or not row["config"]:
        return "not finished"
    if row["config"].get("task") == "measure":
        return "only measured"
    # `== True` also holds for numpy's bool and not for NaN, which stands for "no certificate".
    return None if row["certificate"] == True else "failed or without certificate"  # noqa: E712


def _run(row: Mapping[Any, Any]) -> Run:
    """Raises if the run's documents hold values of another kind than a run writes."""
    config, training, provenance = row["config"], row["training"], row["provenance"]
    facts = facts_of(config, provenance)
    steps, every = training.steps_done, config.get("train", {}).get("eval_every")
    effort: dict[str, Any] = {key: getattr(training, key) for key in ("steps_done", "tokens_seen", "best_step")}
    effort["n_train"], effort["commit"] = facts["n_train"], (provenance.source.commit or "")[:7] or None
    # the best draft was chosen from so many: before the first step, every `eval_every` steps, after the last
    effort["evaluations"] = 1 + math.ceil(steps / every) if steps and every else None
    effort["watched_at"] = tuple(sorted(training.first_exact)) or None  # temperatures by which it was chosen
    hash(tuple(facts.values()))  # they are compared, and are keys
    measurement = provenance.measurement
    return Run(str(row["run_id"]), facts, effort, config, measurement.draft_sha256 if measurement else None)


def facts_of(config: Mapping[str, Any], provenance: Provenance) -> dict[str, Any]:
    """What decides whether two runs may be compared: dotted name -> value, hashes of files rather than their paths."""
    config = decisive(config)
    prompts, origin = config.get("prompts", {}), provenance.prompts
    measure, train, capture = config.get("measure", {}), config.get("train", {}), config.get("capture", {})
    facts: dict[str, Any] = {
        "target": provenance.target_fingerprint or _text(config.get("target")),
        "domain": prompts.get("domain"),
        "scenario": prompts.get("scenario"),
        "train_prompts": origin.train_hash or _text(prompts.get("train")),
        "n_train": origin.train,
        "heldout": origin.heldout_hash or _text(prompts.get("heldout")),
        "dtype": provenance.target_dtype,
        "device": (provenance.device or "").partition(":")[0],
        "loss": loss_name(train.get("loss", [])),
        "train.mode": train.get("mode"),
    }
    # a key without a value is as good as one that an older recipe never had
    facts |= {f"draft.{key}": _text(value) for key, value in config.get("draft", {}).items() if value is not None}
    if provenance.checkpoint_sha256:  # the weights themselves, rather than where they lay
        facts["draft.checkpoint"] = provenance.checkpoint_sha256
    # what decides the text of the answers; for a server, who answers
    facts |= {f"capture.{key}": value for key, value in capture.items() if key not in ("server", *_SIGNAL)}
    facts |= {f"capture.server.{key}": value for key, value in capture.get("server", {}).items()}
    # the settings of training that this run used, those of its mode's own section too
    settings = {key: value for key, value in train.items() if key not in {"mode", "loss", *SECTIONS}}
    for name in SECTIONS:
        settings |= {f"{name}.{key}": value for key, value in (train.get(name) or {}).items()}
    facts |= {f"train.{key}": _text(value) for key, value in settings.items()}
    if provenance.reference_sha256 and f"{SELECTION}reference" in facts:
        facts[f"{SELECTION}reference"] = provenance.reference_sha256
    return facts | {f"measure.{key}": measure.get(key) for key in _MEASURED_ON}


def loss_name(terms: Any) -> str:
    """The name of a loss that is one term with its default parameters; else the whole of it."""
    if isinstance(terms, list) and len(terms) == 1 and isinstance(terms[0], dict):
        with contextlib.suppress(ValidationError):
            term = LossTerm.model_validate(terms[0])
            if term.weight == 1.0 and term.own is None:
                return term.name
    return _text(terms)


def loss_names(loss: Any) -> list[str]:
    """The losses of a fact that `loss_name` made, each by its name alone."""
    with contextlib.suppress(ValueError, TypeError, KeyError):
        return [str(term["name"]) for term in json.loads(str(loss))]
    return [str(loss)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)


def is_schedule(fact: str) -> bool:
    """Whether a fact belongs to how long and in which steps a draft was trained, rather than to what it was taught."""
    return fact.startswith("train.") and fact not in _SAME_TRAINING and not fact.startswith(SELECTION)


def first_of_each(runs: Iterable[Run], *keys: str) -> dict[tuple[Any, ...], Run]:
    """The first run (the newest, in lists of newest first) of each combination of these facts."""
    first: dict[tuple[Any, ...], Run] = {}
    for run in runs:
        first.setdefault(tuple(run.facts[key] for key in keys), run)
    return first
