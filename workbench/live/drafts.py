"""The drafts that the live view offers: of finished runs whose weights are here, the best served first."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.errors import DraftbenchError
from engine.fileio import read_json
from engine.measure.decision import decide
from engine.measure.speed_words import describe
from engine.paths import Home
from engine.records.summary import Summary
from engine.runs.advice import has_weights
from engine.runs.folder import RunFolder
from workbench.shared.chart_parts import short_target

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Choice:
    """A run with a draft: its name, its target, and a description that distinguishes it from others."""

    run_id: str
    name: str
    about: str = ""
    domain: str = ""
    gamma: int | None = None  # of its measurement
    target: str = ""  # in words
    target_key: str = ""  # equal for drafts that fit one target
    measured: str = ""  # its speed over prompts, in words

    @property
    def label(self) -> str:
        return f"{self.name} · {self.about}" if self.about else self.name


@dataclass(frozen=True)
class Offer:
    """What can be chosen: the drafts, and how many finished runs are left out because their weights are not here."""

    drafts: Sequence[Choice]
    without_weights: int = 0

    def of(self, run_id: str) -> Choice | None:
        """The draft of a run."""
        return next((choice for choice in self.drafts if choice.run_id == run_id), None)

    def targets(self) -> list[tuple[str, str]]:
        """(label, key) of each target, that of the best draft first; targets of one name are numbered."""
        names: dict[str, str] = {}
        for choice in self.drafts:
            same = sum(name.partition(" (")[0] == choice.target for name in names.values())
            names.setdefault(choice.target_key, f"{choice.target} ({same + 1})" if same else choice.target)
        return [(name, key) for key, name in names.items()]

    def for_target(self, key: str | None) -> list[Choice]:
        """The drafts that fit a target."""
        return [choice for choice in self.drafts if choice.target_key == key]


def target_key(run: RunFolder) -> str:
    """Equal for runs whose drafts may be compared: their targets are the same in all settings."""
    return run.recipe().target.model_dump_json()


def has_draft(home: Home, run_id: str) -> bool:
    """Whether the run's trained draft is here with its weights, those of a shared draft included."""
    run = RunFolder(home.run(run_id))
    if not has_weights(run):
        return False
    card = run.path / "draft" / "best" / "draft.json"
    with contextlib.suppress(DraftbenchError, OSError, ValueError, AttributeError, TypeError):
        if not read_json(card).get("info", {}).get("lora"):
            return True
        from engine.models.draft import read_card
        from engine.models.lora import shared_folder

        info = read_card(card.parent).info.lora
        return info is None or (shared_folder(card.parent, info) / "draft.safetensors").is_file()
    return False


def offered(home: Home, *, named: Sequence[str] = ()) -> Offer:
    """The drafts of finished runs, without archived ones unless `named`: what is worth serving, the fastest first, then
    the baseline, then the newest."""
    known = _known(home)
    hidden = known.archived.fillna(False).astype(bool)
    rows = known[((known.state == "done") & ~hidden) | known.run_id.isin(named)].to_dict("records")
    here = [(row, _facts(home, row["run_id"])) for row in rows if has_draft(home, row["run_id"])]

    def place(entry: tuple[Mapping[Any, Any], _Facts]) -> tuple[bool, float, bool]:
        row, facts = entry
        served = facts.answer == "serve it"
        return not served, -row["speedup"] if served else 0.0, row["baseline"] is not True

    drafts = [_choice(row, facts) for row, facts in sorted(here, key=place) if facts.target_key]
    return Offer(drafts, len(rows) - len(here))


def described(home: Home, run_ids: Sequence[str]) -> dict[str, Choice]:
    """Name and description of these runs, by id."""
    known = _known(home)
    rows = known[known.run_id.isin(list(run_ids))].to_dict("records")
    return {row["run_id"]: _choice(row, _facts(home, row["run_id"])) for row in rows}


def _known(home: Home) -> pd.DataFrame:
    """One row per run, as indexed now."""
    from engine.index import queries
    from engine.index.connection import reading
    from engine.index.ingest import ingest_all

    with contextlib.suppress(DraftbenchError, OSError):  # a busy index shows its last state
        ingest_all(home)
    with reading(home.index) as con:
        return queries.overview(con)


@dataclass(frozen=True)
class _Facts:
    """What a run's own folder says about its draft; '' for what it does not."""

    answer: str = ""  # whether it is worth serving
    measured: str = ""
    target_key: str = ""


def _facts(home: Home, run_id: str) -> _Facts:
    run = RunFolder(home.run(run_id))
    return _read_facts(run.path, _stamp(run.summary_path), _stamp(run.path / "config.yaml"))


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return 0, 0
    return status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4096)
def _read_facts(path: Path, summary_stamp: tuple[int, int], recipe_stamp: tuple[int, int]) -> _Facts:
    """Read once, and again when one of the two files has changed."""
    run, answer, measured, key = RunFolder(path), "", "", ""
    with contextlib.suppress(DraftbenchError):
        key = target_key(run)
    with contextlib.suppress(DraftbenchError):
        summary = Summary.read(run.path)
        if summary and summary.speed:
            answer, measured = decide(summary).answer, describe(summary.speed)
    return _Facts(answer, measured, key)


def _choice(row: Mapping[Any, Any], facts: _Facts) -> Choice:
    # a data frame holds NaN where a text is missing
    domain, loss, target, title = (
        row[key] if isinstance(row[key], str) else "" for key in ("domain", "loss", "target", "title")
    )
    parts = [domain, loss]
    exact = row["exact"]
    if exact is not None and exact == exact:
        parts.append(f"exact acceptance {exact:.3f} at temperature {row['temperature']:g}")
    parts.append(facts.answer)
    gamma = int(row["num_draft_tokens"]) if row["num_draft_tokens"] == row["num_draft_tokens"] else None
    return Choice(
        row["run_id"],
        title or row["run_id"],
        " · ".join(part for part in parts if part),
        domain,
        gamma,
        short_target(target),
        facts.target_key,
        facts.measured,
    )
