"""The runs and the study that would decide an open claim."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from engine.findings.claims import MODE, SUPERVISION
from engine.findings.evaluate import evaluate
from engine.findings.missing import missing_runs, missing_study, near_misses
from engine.paths import Home
from tests.unit.findings.made_up_runs import Store, pair, row, selected, streams_and_epochs


def test_missing_seeds_are_asked_for_on_both_sides():
    store = Store()
    pair(store, 1, 0.4, 0.42)
    runs, _ = selected(store.rows)
    asked = missing_runs(store.findings()["white_box"], runs)
    assert {(one.run, one.changes) for one in asked} == {
        (run, (f"train.seed={seed}",)) for run in ("sft0", "kl0") for seed in (1, 2)
    }


def test_the_other_side_is_asked_for_from_a_run_that_exists():
    runs, _ = selected([row("kl")])
    found = {finding.claim.key: finding for finding in evaluate(runs, lambda _: pd.DataFrame())}
    assert [one.changes for one in missing_runs(found["white_box"], runs)] == [("train.loss=sft",)]
    assert missing_runs(found["size"], runs)[0].changes == ("prompts.train_prompts=75",)


def test_the_other_mode_is_asked_for():
    runs, _ = selected([row("kl")])
    offline = next(f for f in evaluate(runs, lambda _: pd.DataFrame()) if f.claim is MODE)
    assert [one.changes for one in missing_runs(offline, runs)] == [("train.mode=online",)]


def test_a_third_loss_is_asked_for_only_where_the_claim_speaks_of_several():
    runs, _ = selected([row("kl")])
    found = {finding.claim.key: finding for finding in evaluate(runs, lambda _: pd.DataFrame())}
    asked = {key: [one.changes for one in missing_runs(found[key], runs)] for key in found}
    assert asked["loss_for_sampled"] == [("train.loss=argmax_ce",)]
    assert asked["loss_for_argmax"] == [("train.loss=argmax_ce",), ("train.loss=tvd",)]


def test_near_misses_name_the_difference():
    runs, _ = selected([row("kl"), row("sft", **{"train.loss": "sft", "train.epochs": 2.0})])
    ((base, other, odd),) = near_misses(SUPERVISION, runs)
    assert (base, other) == ("sft", "kl")
    assert odd == {"train.epochs": ("2.0", "6.0")}


def study(store: Store, key: str) -> dict[str, Any]:
    runs, _ = selected(store.rows)
    found = {finding.claim.key: finding for finding in evaluate(runs, store.load)}
    made = missing_study(found[key], runs, Path("/home/runs"))
    assert made is not None
    return yaml.safe_load(made.text) | {"n_runs": made.n_runs}


def test_missing_seeds_become_the_same_grid_under_new_seeds():
    store = Store()
    for domain in ("biology", "law"):
        pair(store, 1, 0.40, 0.424, **{"prompts.domain": domain}, heldout=domain)
        for last in store.rows[-2:]:
            last["run_id"] += domain
        for table in store.tables[-4:]:
            table["run_id"] += domain
    made = study(store, "white_box")
    assert made["axes"]["seed"] == [1, 2]
    assert sorted(made["axes"]["loss"]) == ["forward_kl", "sft"]
    assert made["axes"]["place"] == {"biology-curated": {}, "law-curated": {"prompts.domain": "law"}}
    assert made["n_runs"] == 8
    assert made["base"].startswith("/home/runs/")
    assert made.get("grids", [{}]) == [{}] or "grids" not in made


def test_the_grids_of_a_study_hold_exactly_the_cells_that_are_wanted():
    store = Store()
    for n, losses in ((50, ("sft", "forward_kl")), (200, ("sft", "forward_kl"))):
        for loss in losses:
            epochs = 3.0 if n == 50 else 6.0
            store.add(
                f"{loss}{n}",
                0.4,
                n_train=n,
                train_hash=str(n),
                **{"train.loss": loss, "prompts.train_prompts": n, "train.epochs": epochs},
            )
    made = study(store, "white_box")
    assert made["n_runs"] == 8
    assert made["axes"]["queries"] == [200, 50] or made["axes"]["queries"] == [50, 200]
    assert {(tuple(grid["training"]), tuple(grid["queries"])) for grid in made["grids"]} == {
        (("offline",), (made["axes"]["queries"][0],)),
        (("offline-2",), (made["axes"]["queries"][1],)),
    }


def test_a_mode_that_nobody_ran_is_asked_for_with_both_matched_efforts():
    store = Store()
    store.add("kl", 0.4)
    made = study(store, "offline")
    assert made["axes"]["mode"]["online"] == {"train.mode": "online"}
    assert {"mode": "online", "match": ["tokens", "steps"]} in made["grids"]
    assert made["axes"]["seed"] == [0, 1, 2]


def test_every_study_that_is_wanted_is_one_that_can_be_read(tmp_path: Path):
    from engine.study.cells import expand
    from engine.study.spec import load_study

    for name in ("train.jsonl", "heldout.jsonl"):
        (tmp_path / name).touch()

    store = Store()
    streams_and_epochs(store)
    pair(store, 1, 0.4, 0.42)
    folder = tmp_path / "runs"
    runs, _ = selected(store.rows)
    for run in runs:
        (folder / run.id).mkdir(parents=True)
        (folder / run.id / "config.yaml").write_text(yaml.safe_dump(dict(run.config)), encoding="utf-8")
    read = 0
    for finding in evaluate(runs, store.load):
        made = missing_study(finding, runs, folder)
        if made is not None:
            (tmp_path / made.file_name).write_text(made.text, encoding="utf-8")
            spec = load_study(tmp_path / made.file_name)
            assert spec.name == made.name
            if "YOUR_" not in made.text:
                assert expand(spec.model_copy(update={"folder": str(tmp_path)}), Home(tmp_path)).cells
            read += 1
    assert read >= 5


def test_a_decided_claim_wants_no_study():
    store = Store()
    pair(store, 3, 0.400, 0.424)
    runs, _ = selected(store.rows)
    assert missing_study(store.findings()["white_box"], runs) is None
