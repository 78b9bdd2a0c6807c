"""Acceptance of every method, domain, scenario and size, seeds together: the frame of Findings' figures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from pydantic import TypeAdapter

from engine.findings.efforts import OWN, STEPS, TOKENS, Schedules
from engine.findings.home import HomeFindings
from engine.findings.pooling import Side, Tables, rate, tables_of
from engine.findings.runs import Run
from engine.measure.compare import Sums
from engine.measure.definitions import RATES
from workbench.shared.chart_parts import short_target
from workbench.shared.method_names import method_name

COLUMNS = (
    "domain",
    "scenario",
    "n_train",
    "loss",
    "mode",
    "effort",
    "method",
    "temperature",
    "value",
    "low",
    "high",
    "n_prompts",
    "seeds",
    "initial",
    "runs",
    "target",
)
_SHORT = {TOKENS: "equal tokens", STEPS: "equal steps"}


def acceptance(evaluated: HomeFindings) -> pd.DataFrame:
    """A row per method, domain, scenario, size and temperature; `initial` is the same draft before training.

    In a domain only runs of one kind are shown together: one target, one set of held-out prompts, one way
    to begin and to measure; the kind with the most runs (`elsewhere` counts the others). Of
    several schedules of one method the usual one is shown, offline runs cut to a stream's effort as their own methods.
    """
    schedules, tables = Schedules(evaluated.runs), tables_of(evaluated.sums)
    groups: dict[tuple[Any, ...], list[Run]] = {}
    for run in sorted(_shown(evaluated.runs), key=schedules.rank):
        kinds = schedules.cut.get(run.id) or {OWN}
        for effort in sorted(kinds):
            facts = run.facts
            key = (facts["domain"], facts["scenario"], facts["n_train"], facts["loss"], facts["train.mode"], effort)
            groups.setdefault(key, []).append(run)
    rows = [row for key, group in groups.items() for row in _rows(key, _one_schedule(group), tables)]
    return pd.DataFrame(rows, columns=list(COLUMNS)).sort_values(["domain", "method", "n_train"], ignore_index=True)


@dataclass(frozen=True)
class Rates:
    """The frame of `acceptance`, column by column, and how many runs are of another kind than those in it."""

    columns: dict[str, list[Any]]
    elsewhere: int

    @property
    def frame(self) -> pd.DataFrame:
        """As it was; JSON has no NaN."""
        frame = pd.DataFrame(self.columns, columns=list(COLUMNS))
        return frame.assign(**{name: pd.to_numeric(frame[name]) for name in _NUMBERS})


_RATES = TypeAdapter(Rates)
_NUMBERS = ("n_train", "temperature", "value", "low", "high", "n_prompts", "seeds", "initial")


def kept_rates(evaluated: HomeFindings) -> Rates:
    """The rates of the runs that took part: kept like the findings, until a run changes."""

    def make() -> Rates:
        return Rates(acceptance(evaluated).to_dict("list"), elsewhere(evaluated.runs))  # type: ignore[arg-type]

    return make() if evaluated.kept is None else evaluated.kept.get("acceptance", _RATES, make)


def elsewhere(runs: Sequence[Run]) -> int:
    """How many runs are of another kind than the one shown of their domain."""
    return len(runs) - len(_shown(runs))


def _shown(runs: Sequence[Run]) -> list[Run]:
    counts: dict[str, Counter[str]] = {}
    for run in runs:  # newest first, and of equal counts the first seen wins
        counts.setdefault(str(run.facts["domain"]), Counter())[_kind(run)] += 1
    most = {domain: count.most_common(1)[0][0] for domain, count in counts.items()}
    return [run for run in runs if _kind(run) == most[str(run.facts["domain"])]]


def _kind(run: Run) -> str:
    held = ("target", "heldout", "dtype")
    return repr([(k, v) for k, v in sorted(run.facts.items()) if k in held or k.startswith(("draft.", "measure."))])


def _one_schedule(group: Sequence[Run]) -> list[Run]:
    """The newest run of each seed that has the schedule of the first one."""
    first = [(k, v) for k, v in sorted(group[0].facts.items()) if k.startswith("train.") and k != "train.seed"]
    same = [
        run
        for run in group
        if [(k, v) for k, v in sorted(run.facts.items()) if k.startswith("train.") and k != "train.seed"] == first
    ]
    return list({run.seed: run for run in reversed(same)}.values())


def _rows(key: tuple[Any, ...], group: Sequence[Run], tables: Tables) -> list[dict[str, Any]]:
    domain, scenario, n_train, loss, mode, effort = key
    method = method_name(loss, mode) + (f", {_SHORT[effort]}" if effort in _SHORT else "")
    rows = []
    for temperature in sorted({t for run, draft, t in tables if draft == "trained" and run in {r.id for r in group}}):
        measured = [run for run in group if (run.id, "trained", temperature) in tables]
        trained = rate([_side(run, tables[run.id, "trained", temperature]) for run in measured])
        before = [
            tables[run.id, "initial", temperature] for run in measured if (run.id, "initial", temperature) in tables
        ]
        initial = sum(t.exact_sum.sum() for t in before) / max(1, sum(t.n_positions.sum() for t in before))
        rows.append(
            {
                "domain": domain,
                "scenario": scenario,
                "n_train": n_train,
                "loss": loss,
                "mode": mode,
                "effort": effort,
                "method": method,
                "temperature": temperature,
                "value": trained.value,
                "low": trained.low,
                "high": trained.high,
                "n_prompts": trained.n_prompts,
                "seeds": len({run.seed for run in measured}),
                "initial": initial if before else float("nan"),
                "runs": [run.id for run in measured],
                "target": short_target(_target(measured[0].config)) if measured else None,
            }
        )
    return rows


def _target(config: Mapping[str, Any]) -> str:
    """The target's name in a recipe, with the name of its adapter."""
    target = config.get("target") or {}
    names = [target.get("model"), target.get("adapter")] if isinstance(target, Mapping) else [target]
    return " + ".join(short_target(name) for name in names if name)


def _side(run: Run, table: pd.DataFrame) -> Side:
    return Side(str(run.facts["heldout"]), Sums.of(table, RATES["exact"]))


def choices(frame: pd.DataFrame) -> Mapping[str, list[Any]]:
    """The choices that the figures offer: scenarios (most frequent first), sizes (largest first), temperatures."""
    sizes = sorted(frame.n_train.dropna().unique(), reverse=True)
    return {
        "scenario": [str(name) for name in frame.scenario.value_counts().index],
        "n_train": [int(size) for size in sizes],
        "temperature": [float(t) for t in sorted(frame.temperature.unique())],
    }


def usual_size(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows of each domain and scenario at the size that most methods were trained with; of equals the larger."""
    counts = frame.groupby(["domain", "scenario", "n_train"]).method.nunique().reset_index()
    counts = counts.sort_values(["method", "n_train"]).drop_duplicates(["domain", "scenario"], keep="last")
    return frame.merge(counts[["domain", "scenario", "n_train"]])


def of_domains(frame: pd.DataFrame) -> pd.DataFrame:
    """Without the general drafts, which are where domain drafts begin; everything if there is nothing else."""
    rows = frame[frame.domain != "general"]
    return rows if len(rows) else frame


def table(frame: pd.DataFrame) -> pd.DataFrame:
    """The same for people and files: numbers as they are, runs by name."""
    return frame.drop(columns=["effort"]).assign(runs=[", ".join(runs) for runs in frame.runs])
