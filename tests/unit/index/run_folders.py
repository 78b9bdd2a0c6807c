"""Run folders for the tests of the index, and what is in it of a run."""

import json

import numpy as np
import pandas as pd

from engine.config.reading import dump_recipe, parse_recipe
from engine.index import ingest, queries
from engine.index.connection import reading
from engine.index.schema import RUN_TABLES

KEY = {"draft": "trained", "temperature": 1.0}


def recipe(**changes):
    values = {
        "name": "demo",
        "prompts": {"train": "a.jsonl", "heldout": "b.jsonl", "domain": "law"},
        "tags": ["x", "y"],
    }
    return parse_recipe({**values, **changes})


def frames(n_prompts=2):
    """The four Parquet files of a measurement, small."""
    ids = [f"p{i}" for i in range(n_prompts)]
    counts = {"drafted": 6, "accepted": 4, "rejected": 1, "discarded": 1, "emitted": 6, "rounds": 2}
    return {
        "prompts": pd.DataFrame(
            {**KEY, "prompt_id": ids, "group": "easy", "exact_sum": 1.5, "agree_sum": 2, "n_positions": 3, **counts}
        ),
        "positions": pd.DataFrame(
            [
                {
                    **KEY,
                    "prompt_id": i,
                    "position": n,
                    "token_id": n,
                    "overlap": 0.5,
                    "agree": n > 0,
                    "p": 0.4,
                    "q": 0.3,
                }
                for i in ids
                for n in range(3)
            ]
        ),
        "rounds": pd.DataFrame(
            [
                {
                    **KEY,
                    "prompt_id": i,
                    "round": n,
                    "num_draft_tokens": 3,
                    "accepted": 2,
                    "emitted": 3,
                    "draft_s": 0.1,
                    "verify_s": 0.2,
                    "overhead_s": 0.01,
                }
                for i in ids
                for n in range(2)
            ]
        ),
        "tokens": pd.DataFrame(
            [
                {
                    **KEY,
                    "prompt_id": i,
                    "round": 0,
                    "slot": n,
                    "position": n,
                    "token_id": n,
                    "text": "汉 <b>",
                    "fate": f,
                    "p": 0.4,
                    "q": 0.3,
                    "u": np.nan if f == "bonus" else 0.1,
                    "overlap": 0.5,
                }
                for i in ids
                for n, f in enumerate(["accepted", "accepted", "bonus"])
            ]
        ),
    }


def write_measure(folder, n_prompts=2):
    (folder / "measure").mkdir(exist_ok=True)
    for name, frame in frames(n_prompts).items():
        frame.to_parquet(folder / "measure" / f"{name}.parquet")
    interval = {"value": 0.5, "low": 0.4, "high": 0.6, "n_prompts": n_prompts, "n_tokens": 3 * n_prompts}
    conditions = {"num_draft_tokens": 3, "dtype": "float32", "device": "cpu", "heldout_hash": "h", "kernel": "eager"}
    summary = {
        "metrics": [
            {**KEY, "metric": "exact", **interval},
            {**KEY, "metric": "per_proposed", **interval, "low": float("nan"), "acceptance_rule": "sampled"},
        ],
        "conditions": {**conditions, "acceptance_rule": "expected"},
    }
    (folder / "measure" / "summary.json").write_text(json.dumps(summary))


def make_run(home, run_id="run-1", state="done", n_prompts=2, **changes):
    folder = home.run(run_id)
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(dump_recipe(recipe(**changes)))
    status = {"state": state, "phase": "end", "created_at": "2025-06-01T10:00:00+00:00"}
    (folder / "status.json").write_text(json.dumps(status))
    events = [{"kind": "train", "step": step, "loss": 1 / step, "seconds": 0.5} for step in range(1, 5)]
    events += [{"kind": "resumed", "step": 2}, {"kind": "train", "step": 3, "loss": 0.3, "seconds": 0.6}]
    events += [{"kind": "eval", "step": 3, "temperature": 1.0, "exact": 0.6, "tokens_seen": 30, "seconds": 0.7}]
    (folder / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (folder / "provenance.json").write_text(json.dumps({"git": "abc", "limits": [float("inf")]}))
    write_measure(folder, n_prompts)
    return folder


def table(home, name):
    ingest.add_details(home)
    with reading(home.index) as con:
        return con.execute(f'SELECT * EXCLUDE (run_id) FROM "{name}"').df()


def row_counts(con, run_id):
    return {
        name: con.execute(f'SELECT count(*) FROM "{name}" WHERE run_id = ?', [run_id]).fetchone()[0]
        for name in RUN_TABLES
    }


def counts(home, run_id="run-1"):
    ingest.add_details(home)
    with reading(home.index) as con:
        return row_counts(con, run_id)


def problems(home, run_id="run-1"):
    with reading(home.index) as con:
        return queries.get_run(con, run_id).problems


WHOLE = {"runs": 1, "metrics": 2, "curve": 4, "prompts": 2, "positions": 6, "rounds": 4}
