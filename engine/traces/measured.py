"""Traces of a run's measurement, put together from its Parquet tables."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from stat import S_ISREG
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from engine.decode.events import Alternative, Fate, Round, Token
from engine.errors import DraftbenchError
from engine.runs.advice import measures_again
from engine.runs.folder import RunFolder
from engine.traces.trace import Trace

_SAME = 1e-6  # temperatures closer than this are the same


def holds_traces(run: RunFolder) -> bool:
    """Whether the run's measurement holds rounds to replay; most shipped samples do not. Reads the footer alone."""
    path = run.path / "measure" / "rounds.parquet"
    try:
        stat = path.stat()
        return S_ISREG(stat.st_mode) and _row_count(path, stat.st_mtime_ns, stat.st_size) > 0
    except Exception:  # a damaged file, in whatever way, holds nothing to replay
        return False


@lru_cache(maxsize=20_000)
def _row_count(path: Path, changed_ns: int, size: int) -> int:
    return int(pq.read_metadata(path).num_rows)


def traced_prompts(run: RunFolder) -> list[tuple[float, str]]:
    """Temperature and prompt id of every trace that the run's measurement holds, in its order."""
    table = _table(run, "rounds", columns=["temperature", "prompt_id"])
    return [(float(t), str(p)) for t, p in table.drop_duplicates().itertuples(index=False)]


def prompt_texts(run: RunFolder) -> dict[str, str]:
    """The user's question by prompt id; those of a measurement by an earlier version are left out."""
    try:
        table = _table(run, "prompts", columns=["prompt_id", "text"]).dropna().drop_duplicates("prompt_id")
    except DraftbenchError:
        return {}
    return {str(prompt): str(text) for prompt, text in zip(table.prompt_id, table.text, strict=True)}


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
        read = [_round(row, by_round[row["round"]]) for row in rounds.sort_values("round").to_dict("records")]
    except (DraftbenchError, KeyError, TypeError, ValueError) as error:
        raise _damaged(run, "rounds.parquet and tokens.parquet", f"a round or a value is missing: {error}") from None
    return Trace(
        id="",
        title=f"{run.id} · {prompt_id} · temperature {temperature:g}",
        prompt=_prompt_text(run, here) or prompt_id,
        settings=_settings(run, temperature, prompt_id),
        rounds=tuple(read),
    )


def no_traces(run: RunFolder, why: str) -> DraftbenchError:
    """The error for a run that holds no traces, with the command that measures this run again."""
    return DraftbenchError(f"run {run.id} has no traces", why, measures_again(run))


def _damaged(run: RunFolder, name: str, why: str) -> DraftbenchError:
    return DraftbenchError(f"the measurement of run {run.id} is damaged: {name}", why, measures_again(run))


def _settings(run: RunFolder, temperature: float, prompt_id: str) -> dict[str, Any]:
    recipe, conditions = run.recipe(), run.summary().conditions.document()
    if not conditions:
        raise _damaged(run, "summary.json", "it does not say how the run was measured")
    kept = ("num_draft_tokens", "adaptive", "top_p", "top_k", "max_new_tokens", "seed", "dtype", "quantize", "device")
    named = {"target": recipe.target.model, "draft": run.id, "prompt_id": prompt_id, "temperature": temperature}
    return {**named, **{key: conditions[key] for key in kept if key in conditions}}


def _prompt_text(run: RunFolder, here: list[tuple[str, str, Any]]) -> str:
    """The user's question; empty in a measurement by an earlier version."""
    texts = _table(run, "prompts", filters=here).get("text", pd.Series(dtype=object)).dropna()
    return str(texts.iloc[0]) if len(texts) else ""


def _table(run: RunFolder, name: str, **options: Any) -> pd.DataFrame:
    path = run.path / "measure" / f"{name}.parquet"
    if not path.exists() and run.summary_path.exists() and run.summary().served:
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


def _round(row: Mapping[Any, Any], tokens: pd.DataFrame) -> Round:
    reason = row.get("finish_reason")
    return Round(
        row=0,
        number=int(row["round"]),
        num_draft_tokens=int(row["num_draft_tokens"]),
        tokens=tuple(_token(token) for token in tokens.to_dict("records")),
        draft_s=float(row["draft_s"]),
        verify_s=float(row["verify_s"]),
        overhead_s=float(row["overhead_s"]),
        finish_reason=reason if isinstance(reason, str) else None,
    )


def _token(row: Mapping[Any, Any]) -> Token:
    lists = [row.get(name) for name in ("alt_ids", "alt_p", "alt_q", "alt_texts")]
    alternatives = zip(*lists, strict=True) if all(values is not None for values in lists) else ()
    p, q, u, overlap = (None if pd.isna(row[name]) else float(row[name]) for name in ("p", "q", "u", "overlap"))
    return Token(
        token_id=int(row["token_id"]),
        fate=Fate(row["fate"]),
        position=int(row["position"]),
        target_prob=p,
        draft_prob=q,
        uniform=u,
        overlap=overlap,
        alternatives=tuple(Alternative(int(i), float(p), float(q), str(text)) for i, p, q, text in alternatives),
        text=str(row["text"]),
    )
