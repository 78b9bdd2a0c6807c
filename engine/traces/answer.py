"""A decoded answer in one form, whether it is being written now, was saved, or belongs to a measurement.

The live view, the replay and the report read these and nothing else. Saved traces lie in
`traces/<id>.json` of the home; those of a measurement are put together from its tables.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from engine.decode.counts import Counts
from engine.decode.events import EMITTED, Fate, Round
from engine.decode.text import TextStream
from engine.errors import DraftbenchError
from engine.fileio import finite, read_json, write_atomic
from engine.paths import Home
from engine.runs.advice import measures_again
from engine.runs.folder import RunFolder

_FORMAT = 1
_SAME = 1e-6  # temperatures nearer than this are one


@dataclass(frozen=True)
class TraceAlternative:
    """A likely token of a position: readable, with its probability under target (p) and draft (q)."""

    token_id: int
    text: str
    p: float
    q: float


@dataclass(frozen=True)
class TraceToken:
    """A token with its fate and the numbers that decided it; None where there is none (see `events.Token`)."""

    text: str
    token_id: int
    fate: Fate
    position: int
    p: float | None = None
    q: float | None = None
    u: float | None = None
    overlap: float | None = None
    alternatives: tuple[TraceAlternative, ...] = ()

    @property
    def ratio(self) -> float | None:
        """min(1, p/q): the chance with which the target keeps it; None for a token that nobody proposed."""
        if self.p is None or self.q is None or self.fate not in (Fate.ACCEPTED, Fate.REJECTED):
            return None
        return min(1.0, self.p / self.q) if self.q > 0 else 0.0


@dataclass(frozen=True)
class TraceRound:
    """One proposal and its judgement."""

    number: int
    num_draft_tokens: int
    tokens: tuple[TraceToken, ...]
    draft_s: float
    verify_s: float
    overhead_s: float
    finish_reason: str | None = None

    def count(self, *fates: Fate) -> int:
        return sum(token.fate in fates for token in self.tokens)

    @property
    def accepted(self) -> int:
        return self.count(Fate.ACCEPTED)

    @property
    def rejected(self) -> int:
        return self.count(Fate.REJECTED)

    @property
    def discarded(self) -> int:
        return self.count(Fate.DISCARDED)

    @property
    def emitted(self) -> int:
        return self.count(*EMITTED)

    @property
    def seconds(self) -> float:
        """Decoding only: drafting, verifying, judging. Not waiting, not showing."""
        return self.draft_s + self.verify_s + self.overhead_s


@dataclass(frozen=True)
class Trace:
    """A whole answer. `settings` holds what it depends on: target, draft, num_draft_tokens, temperature, ..."""

    id: str
    title: str
    prompt: str
    settings: dict[str, Any]
    rounds: tuple[TraceRound, ...] = field(default_factory=tuple)
    saved_at: str = ""

    @property
    def seconds(self) -> float:
        return sum(r.seconds for r in self.rounds)

    @property
    def text(self) -> str:
        """The answer."""
        return "".join(t.text for r in self.rounds for t in r.tokens if t.fate in EMITTED)

    @property
    def counts(self) -> Counts:
        """Tokens and rounds added up; `counts.rates()` gives the acceptance rates and tau."""
        return count_rounds(self.rounds)


@dataclass(frozen=True)
class TraceSummary:
    """What a list shows of a saved trace."""

    id: str
    title: str
    saved_at: str
    draft: str = ""


def count_rounds(rounds: Iterable[TraceRound]) -> Counts:
    """Add up rounds."""
    listed = list(rounds)
    return Counts(
        rounds=len(listed),
        drafted=sum(r.num_draft_tokens for r in listed),
        accepted=sum(r.accepted for r in listed),
        rejected=sum(r.rejected for r in listed),
        discarded=sum(r.discarded for r in listed),
        emitted=sum(r.emitted for r in listed),
    )


def from_rounds(rounds: Iterable[Round], tokenizer: Any) -> Iterator[TraceRound]:
    """Rounds of one answer as they come, with readable text. Wants every round of it, from the first."""
    stream = TextStream(tokenizer)
    return (read_round(stream, item) for item in rounds)


def read_round(stream: TextStream, told: Round) -> TraceRound:
    """The next round of the answer that `stream` reads."""
    tokens = tuple(
        TraceToken(
            piece.text,
            t.token_id,
            t.fate,
            t.position,
            t.target_prob,
            t.draft_prob,
            t.uniform,
            t.overlap,
            tuple(
                TraceAlternative(a.token_id, text, a.target_prob, a.draft_prob)
                for a, text in zip(t.alternatives, piece.alternatives, strict=True)
            ),
        )
        for t, piece in zip(told.tokens, stream.read(told), strict=True)
    )
    return TraceRound(
        told.number, told.num_draft_tokens, tokens, told.draft_s, told.verify_s, told.overhead_s, told.finish_reason
    )


def save_trace(home: Home, trace: Trace) -> str:
    """Write the trace to the home and return its id; one without an id gets one from its title and the time."""
    trace_id = trace.id or new_id(trace.title)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    stored = finite({**asdict(trace), "format": _FORMAT, "id": trace_id, "saved_at": now})
    write_atomic(home.trace(trace_id), json.dumps(stored, ensure_ascii=False, separators=(",", ":")))
    return trace_id


def new_id(title: str) -> str:
    """'why-is-blood-red-20261122-101500-3fa2': readable, sortable, and never a path."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower())[:40].strip("-") or "trace"
    return f"{words}-{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def load_trace(home: Home, trace_id: str) -> Trace:
    """A saved trace. Raises DraftbenchError if there is none of that id, or its file is damaged."""
    path = home.trace(trace_id)
    if not path.exists():
        raise DraftbenchError(
            f"there is no saved trace {trace_id!r}", f"no such file in {home.traces}", "choose one from the list"
        )
    return _load(path)


def _load(path: Path) -> Trace:
    damaged = DraftbenchError(f"{path} is damaged", "it holds no trace", "remove it, or save the trace again")
    try:
        return _trace(read_json(path), path.stem)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise damaged from None


def list_traces(home: Home) -> list[TraceSummary]:
    """Saved traces, the newest first; damaged files are left out. A file is read once, and again if it changes."""
    found = []
    for path in home.traces.glob("*.json") if home.traces.is_dir() else ():
        with contextlib.suppress(DraftbenchError, OSError):
            found.append(_summary(path, path.stat().st_mtime_ns))
    return sorted(found, key=lambda trace: (trace.saved_at, trace.id), reverse=True)


@lru_cache(maxsize=2000)
def _summary(path: Path, changed_ns: int) -> TraceSummary:
    trace = _load(path)
    return TraceSummary(trace.id, trace.title, trace.saved_at, str(trace.settings.get("draft") or ""))


def _trace(stored: Mapping[str, Any], trace_id: str) -> Trace:
    if stored["format"] != _FORMAT:
        raise DraftbenchError(
            f"trace {trace_id} has format {stored['format']}", "another version of Draftbench wrote it", "update it"
        )
    rounds = tuple(
        TraceRound(**{**item, "tokens": tuple(_token(token) for token in item["tokens"])}) for item in stored["rounds"]
    )
    if not all(item.tokens for item in rounds):
        raise ValueError("a round has no tokens")
    named = {key: str(stored[key]) for key in ("title", "prompt", "saved_at")}
    return Trace(id=trace_id, settings=dict(stored["settings"]), rounds=rounds, **named)


def _token(stored: Mapping[str, Any]) -> TraceToken:
    others = tuple(TraceAlternative(**other) for other in stored["alternatives"])
    return TraceToken(**{**stored, "fate": Fate(stored["fate"]), "alternatives": others})


def holds_traces(run: RunFolder) -> bool:
    """Whether the run's measurement has rounds to replay: the samples of a study were kept without them. Reads no rows."""
    path = run.path / "measure" / "rounds.parquet"
    try:
        found = path.stat()
        return S_ISREG(found.st_mode) and _row_count(path, found.st_mtime_ns, found.st_size) > 0
    except Exception:  # damaged in whatever way: there is nothing to replay
        return False


@lru_cache(maxsize=20_000)
def _row_count(path: Path, changed_ns: int, size: int) -> int:
    return int(pq.read_metadata(path).num_rows)


def traced_prompts(run: RunFolder) -> list[tuple[float, str]]:
    """Temperature and id of every prompt whose trace the run's measurement holds, in their order."""
    table = _table(run, "rounds", columns=["temperature", "prompt_id"])
    return [(float(t), str(p)) for t, p in table.drop_duplicates().itertuples(index=False)]


def trace_of_run(run: RunFolder, temperature: float, prompt_id: str) -> Trace:
    """The trace of one held-out prompt from the run's measurement; only that prompt's rows are read."""
    here = [
        ("prompt_id", "==", prompt_id),
        ("temperature", ">", temperature - _SAME),
        ("temperature", "<", temperature + _SAME),
    ]
    rounds, tokens = (_table(run, name, filters=here) for name in ("rounds", "tokens"))
    if rounds.empty:
        raise DraftbenchError(
            f"run {run.id} has no trace of prompt {prompt_id!r} at temperature {temperature:g}",
            "it traces the first prompts of its held-out set only",
            "choose one from the list",
        )
    try:
        by_round = {number: part.sort_values("slot") for number, part in tokens.groupby("round")}
        read = [_stored_round(row, by_round[row["round"]]) for row in rounds.sort_values("round").to_dict("records")]
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(run, "rounds.parquet and tokens.parquet", f"a round or a value is missing: {error}") from None
    asked = _prompt_text(run, here)
    return Trace(
        id="",
        title=f"{run.id} · {prompt_id} · temperature {temperature:g}",
        prompt=asked or prompt_id,
        settings=_settings(run, temperature, prompt_id),
        rounds=tuple(read),
    )


def no_traces(run: RunFolder, why: str) -> DraftbenchError:
    """The error for a run that holds no traces, with the command that makes them for this very run."""
    return DraftbenchError(f"run {run.id} has no traces", why, measures_again(run))


def _damaged(run: RunFolder, name: str, why: str) -> DraftbenchError:
    return DraftbenchError(f"the measurement of run {run.id} is damaged: {name}", why, measures_again(run))


def _settings(run: RunFolder, temperature: float, prompt_id: str) -> dict[str, Any]:
    recipe, summary = run.recipe(), run.summary()
    conditions = summary.get("conditions") if isinstance(summary, dict) else None
    if not isinstance(conditions, dict):
        raise _damaged(run, "summary.json", "it does not say under which conditions was measured")
    kept = ("num_draft_tokens", "adaptive", "top_p", "top_k", "max_new_tokens", "seed", "dtype", "device")
    named = {"target": recipe.target.model, "draft": run.id, "prompt_id": prompt_id, "temperature": temperature}
    return {**named, **{key: conditions[key] for key in kept if key in conditions}}


def _prompt_text(run: RunFolder, here: list[tuple[str, str, Any]]) -> str:
    """What the user asked; nothing in a measurement of an earlier version."""
    table = _table(run, "prompts", filters=here)
    found = table["text"].dropna() if "text" in table else table.head(0)
    return str(found.iloc[0]) if len(found) else ""


def _table(run: RunFolder, name: str, **options: Any) -> pd.DataFrame:
    path = run.path / "measure" / f"{name}.parquet"
    if not path.exists() and run.summary_path.exists() and "served" in run.summary():
        raise DraftbenchError(
            f"run {run.id} has no traces",
            "it was measured against a server's text, and nothing was decoded",
            f"`draftbench measure {run.id} --set measure.against=model` decodes with the model at hand",
        )
    if not path.exists():
        raise no_traces(run, f"there is no {path.name} in its measurement")
    try:
        return pd.read_parquet(path, **options)
    except (OSError, ValueError, KeyError) as error:
        raise _damaged(run, path.name, str(error).splitlines()[0]) from None


def _stored_round(row: Mapping[Any, Any], tokens: pd.DataFrame) -> TraceRound:
    seconds = (float(row["draft_s"]), float(row["verify_s"]), float(row["overhead_s"]))
    read = tuple(_stored_token(token) for token in tokens.to_dict("records"))
    reason = row.get("finish_reason")
    return TraceRound(
        int(row["round"]), int(row["num_draft_tokens"]), read, *seconds, reason if isinstance(reason, str) else None
    )


def _stored_token(row: Mapping[Any, Any]) -> TraceToken:
    lists = [row.get(name) for name in ("alt_ids", "alt_texts", "alt_p", "alt_q")]
    others = zip(*lists, strict=True) if all(part is not None for part in lists) else ()
    numbers = {name: None if pd.isna(row[name]) else float(row[name]) for name in ("p", "q", "u", "overlap")}
    return TraceToken(
        str(row["text"]),
        int(row["token_id"]),
        Fate(row["fate"]),
        int(row["position"]),
        **numbers,
        alternatives=tuple(TraceAlternative(int(i), str(text), float(p), float(q)) for i, text, p, q in others),
    )
