"""How much acceptance a generic draft loses on a domain, and how much training on the domain's prompts recovers.

    python sample_data/drafts/make.py --home HOME          # the generic draft, or use the one that ships
    for domain in function_calling biology chinese; do
      draftbench run recipes/domains/$domain-historical.yaml
    done
    python benchmarks/domain_shift.py

Reads the newest finished run of each name in this home. The drop compares one draft on two targets and two sets of
queries, so it is not paired: the prompts of each side are resampled separately. The gain is paired on the same tokens.
Part of a drop may be that the draft has no ids for what the domain target writes, so this is printed too. Exits with
status 1 unless on every domain and at every temperature the generic draft drops and the lower end of the gain's
interval is above zero.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors import safe_open

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from engine.measure.statistics import paired_difference
from engine.paths import home
from engine.records.provenance import Provenance
from engine.runs.drafts import draft_folder
from engine.runs.folder import RunFolder, run_folders

DOMAINS = ("function-calling", "biology", "chinese")
SAMPLES, SEED = 4000, 0


def newest(name: str) -> RunFolder:
    measured = [r for r in run_folders(home()) if r.recipe().name == name and r.summary_path.exists()]
    if not measured:
        sys.exit(f"no finished run named {name} in {home().runs}; the commands are at the head of this file")
    return measured[0]


def prompts_of(run: RunFolder, draft: str, temperature: float) -> pd.DataFrame:
    """[prompt]: exact_sum and n_positions of one draft at one temperature."""
    table = pd.read_parquet(run.path / "measure" / "prompts.parquet")
    return table[(table.draft == draft) & (table.temperature == temperature)].set_index("prompt_id")


def resampled(table: pd.DataFrame, generator: np.random.Generator) -> np.ndarray[Any, np.dtype[np.float64]]:
    """The rate in each of SAMPLES draws of as many prompts as there are: [draw]."""
    n = len(table)
    weights = generator.multinomial(n, np.full(n, 1 / n), size=SAMPLES)
    rates: np.ndarray[Any, np.dtype[np.float64]] = (weights @ table.exact_sum.to_numpy(float)) / (
        weights @ table.n_positions.to_numpy(float)
    )
    return rates


def rate(table: pd.DataFrame) -> float:
    return float(table.exact_sum.sum() / table.n_positions.sum())


def ids_of(run: RunFolder) -> list[int]:
    """The ids that the draft which the run started from can propose."""
    folder = draft_folder(home(), str(run.recipe().draft.checkpoint))
    assert folder is not None
    with safe_open(folder / "draft.safetensors", framework="pt") as file:
        ids: list[int] = file.get_tensor("draft_token_ids").tolist()
    return ids


def known_share(run: RunFolder, ids: list[int], temperature: float) -> float:
    """How many of the target's tokens are among the ids: a bound on the acceptance of a draft that has no others."""
    table = pd.read_parquet(run.path / "measure" / "positions.parquet", columns=["draft", "temperature", "token_id"])
    return float(table[(table.draft == "trained") & (table.temperature == temperature)].token_id.isin(ids).mean())


def row(general: RunFolder, run: RunFolder, temperature: float) -> dict[str, Any]:
    """One domain at one temperature."""
    base = prompts_of(general, "trained", temperature)
    before, after = (prompts_of(run, draft, temperature) for draft in ("initial", "trained"))
    generator = np.random.default_rng(SEED)
    ratio = resampled(before, generator) / resampled(base, generator) - 1
    after = after.loc[before.index]
    gain = paired_difference(before.exact_sum, before.n_positions, after.exact_sum, after.n_positions, samples=SAMPLES)
    low, high = np.quantile(ratio, [0.025, 0.975])
    return {
        "domain": run.recipe().prompts.domain,
        "temperature": temperature,
        "generic on general": rate(base),
        "generic on domain": rate(before),
        "ids": [known_share(which, ids_of(run), temperature) for which in (general, run)],
        "drop": [rate(before) / rate(base) - 1, float(low), float(high)],
        "trained on historical": rate(after),
        "gain": [gain.value, gain.low, gain.high],
        "prompts": [len(base), len(before)],
        "runs": [general.id, run.id],
    }


def same_draft(general: RunFolder, run: RunFolder) -> bool:
    """Whether the domain run started from the very weights that the general run measured."""
    measurement = Provenance.read_or_empty(general.path).measurement
    return measurement is not None and Provenance.read_or_empty(run.path).checkpoint_sha256 == measurement.draft_sha256


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    general = newest("generic")
    runs = [newest(f"{domain}-historical") for domain in DOMAINS]
    others = [run.id for run in runs if not same_draft(general, run)]
    if others:
        sys.exit(f"{', '.join(others)} did not start from the draft of {general.id}")
    rows = [row(general, run, t) for run in runs for t in run.recipe().measure.temperatures]
    if arguments.json:
        print(json.dumps(rows, indent=2))
    else:
        show(rows)
    sys.exit(0 if all(r["drop"][0] < 0 < r["gain"][1] for r in rows) else 1)


def show(rows: list[dict[str, Any]]) -> None:
    print(
        "| domain | T | generic, general target | generic, domain target | drop, relative "
        "| tokens it has ids for, general and domain | after historical | gain, paired |"
    )
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        drop, gain = (
            f"{v:+.{d}f} [{low:+.{d}f}, {high:+.{d}f}]" for (v, low, high), d in ((r["drop"], 2), (r["gain"], 3))
        )
        print(
            f"| {r['domain']} | {r['temperature']:g} | {r['generic on general']:.3f} | {r['generic on domain']:.3f} "
            f"| {drop} | {r['ids'][0]:.0%}, {r['ids'][1]:.0%} | {r['trained on historical']:.3f} | {gain} |"
        )


if __name__ == "__main__":
    main()
