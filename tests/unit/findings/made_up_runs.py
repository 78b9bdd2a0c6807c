"""Made-up runs of the index, with the sums per prompt that a measurement would have left."""

from __future__ import annotations

import copy
import zlib
from typing import Any

import numpy as np
import pandas as pd

from engine.config.reading import parse_recipe
from engine.findings.evaluate import Finding, evaluate
from engine.findings.runs import Run, select
from engine.records.provenance import Provenance
from engine.records.training import Training

PROMPTS, POSITIONS = 40, 50


def row(run_id: str, **changes: Any) -> dict[str, Any]:
    """A finished run of the index. Keys with a dot go into the recipe, `target` and `n_train` into its origin."""
    config = parse_recipe({"prompts": {"train": "train.jsonl", "heldout": "heldout.jsonl", "domain": "biology"}})
    values = copy.deepcopy(config.model_dump(mode="json"))
    origin = {
        "target_fingerprint": changes.pop("target", "t1"),
        "target_dtype": "float32",
        "device": "cpu",
        "prompts": {
            "train_hash": changes.pop("train_hash", "a"),
            "heldout_hash": changes.pop("heldout", "h"),
            "train": changes.pop("n_train", 300),
        },
    }
    state = {"state": "done", "archived": False, "certificate": True}
    training = {"steps_done": changes.pop("steps", 100), "tokens_seen": changes.pop("tokens", 1000)}
    training["first_exact"] = {str(float(t)): 0.1 for t in changes.pop("watched_at", ())}
    for key, value in changes.items():
        if "." in key:
            section, name = key.split(".")
            values[section][name] = value
        else:
            state[key] = value
    if isinstance(values["train"]["loss"], str):
        values["train"]["loss"] = [
            {"name": values["train"]["loss"], "weight": 1.0, "beta": 0.5, "eta": 3.0, "hard_weight": 1.0}
        ]
    return {"run_id": run_id, **state, "config": values, "provenance": origin, "training": training}


def selected(rows: list[dict[str, Any]]) -> tuple[list[Run], dict[str, int]]:
    """Select from rows as the index gives them, with records in place of their JSON."""
    kinds = {"provenance": Provenance, "training": Training}
    return select(pd.DataFrame([row | {key: kind.of_values(row[key]) for key, kind in kinds.items()} for row in rows]))


class Store:
    """Per-prompt sums of made-up runs: all see the same easy and hard prompts, each at its own rate."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.tables: list[pd.DataFrame] = []
        self.asked: list[str] = []

    def add(
        self,
        run_id: str,
        rate: float,
        *,
        initial: float = 0.0,
        temperature: float = 0.0,
        argmax: float | None = None,
        prompts: int = PROMPTS,
        **changes: Any,
    ) -> None:
        """`argmax`: the rate under argmax proposals; None as of an earlier version's measurement."""
        self.rows.append(row(run_id, **changes))
        ease = np.random.default_rng(7).normal(0, 0.04, prompts)
        noise = np.random.default_rng(zlib.crc32(run_id.encode())).normal(0, 0.005, prompts)
        for draft, value in (("trained", rate), ("initial", initial)):
            sums = POSITIONS * np.clip(value + ease + noise, 0, 1)
            argmax_sums = np.nan if argmax is None else POSITIONS * np.clip(argmax + ease + noise, 0, 1)
            self.tables.append(
                pd.DataFrame(
                    {
                        "run_id": run_id,
                        "draft": draft,
                        "temperature": temperature,
                        "prompt_id": [f"p{i}" for i in range(prompts)],
                        "exact_sum": sums,
                        "argmax_sum": argmax_sums,
                        "n_positions": POSITIONS,
                        "answer": None,
                    }
                )
            )

    def load(self, run_ids: list[str]) -> pd.DataFrame:
        self.asked = run_ids
        every = pd.concat(self.tables)
        return every[every.run_id.isin(run_ids)]

    def findings(self) -> dict[str, Finding]:
        runs, _ = selected(self.rows)
        return {finding.claim.key: finding for finding in evaluate(runs, self.load)}


def pair(store: Store, seeds: int, sft: float, kl: float, **changes: Any) -> None:
    for seed in range(seeds):
        store.add(f"sft{seed}", sft, **{"train.loss": "sft", "train.seed": seed, **changes})
        store.add(f"kl{seed}", kl, **{"train.seed": seed, **changes})


STREAM = {"train.mode": "online"}


def streams_and_epochs(store: Store, seeds: int = 1, n: int = 300, online: float = 0.40, **changes: Any) -> None:
    """An online run, and offline ones at their own schedule, of equal tokens and of equal steps."""
    for seed in range(seeds):
        shared = {"train.seed": seed, "n_train": n, "train_hash": str(n), **changes}
        store.add(f"on{n}-{seed}", online, tokens=1000, steps=75, **shared, **STREAM)
        store.add(f"steps{n}-{seed}", 0.41, tokens=1500, steps=75, **shared, **{"train.max_steps": 75})
        store.add(f"tokens{n}-{seed}", 0.405, tokens=1010, steps=38, **shared, **{"train.epochs": 1.0})
        store.add(f"own{n}-{seed}", 0.46, tokens=6000, steps=225, **shared)
