"""Claims on made-up runs: what may be paired, what is measured, and which verdict follows."""

from __future__ import annotations

import copy
import math
import zlib
from typing import Any

import numpy as np
import pandas as pd
import pytest

from engine.config import parse_recipe
from engine.measure.claims import BEST_LOSS, CLAIMS, GENERIC, MODE, SUPERVISION, facts_of
from engine.measure.findings import Finding, evaluate
from engine.measure.pairing import select
from engine.measure.statistics import Interval
from engine.measure.verdicts import FEW, NOT, REPRODUCED, SAME, judge_cell, overall
from engine.measure.wanted import near_misses, wanted

PROMPTS, POSITIONS = 40, 50


def row(run_id: str, **changes: Any) -> dict[str, Any]:
    """A finished run of the index. Keys with a dot go into the recipe, `target` and `n_train` into its origin."""
    config = parse_recipe({"prompts": {"train": "train.jsonl", "heldout": "heldout.jsonl", "domain": "biology"}})
    values = copy.deepcopy(config.model_dump(mode="json"))
    origin = {"target_fingerprint": changes.pop("target", "t1"), "target_dtype": "float32", "device": "cpu",
              "prompts": {"train_hash": changes.pop("train_hash", "a"), "heldout_hash": changes.pop("heldout", "h"),
                          "train": changes.pop("n_train", 300)}}  # fmt: skip
    state = {"state": "done", "archived": False, "certificate": True}
    training = {"steps_done": 100, "tokens_seen": changes.pop("tokens", 1000)}
    for key, value in changes.items():
        if "." in key:
            section, name = key.split(".")
            values[section][name] = value
        else:
            state[key] = value
    if isinstance(values["train"]["loss"], str):
        values["train"]["loss"] = [{"name": values["train"]["loss"], "weight": 1.0, "beta": 0.5, "eta": 3.0}]
    return {"run_id": run_id, **state, "config": values, "provenance": origin, "training": training}


class Store:
    """Per-prompt sums of made-up runs: all see the same easy and hard prompts, each at its own rate."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self.tables: list[pd.DataFrame] = []
        self.asked: list[str] = []

    def add(self, run_id: str, rate: float, *, initial: float = 0.0, temperature: float = 0.0, **changes: Any) -> None:
        self.rows.append(row(run_id, **changes))
        ease = np.random.default_rng(7).normal(0, 0.04, PROMPTS)
        noise = np.random.default_rng(zlib.crc32(run_id.encode())).normal(0, 0.005, PROMPTS)
        for draft, value in (("trained", rate), ("initial", initial)):
            sums = POSITIONS * np.clip(value + ease + noise, 0, 1)
            self.tables.append(pd.DataFrame({
                "run_id": run_id, "draft": draft, "temperature": temperature, "prompt_id": [f"p{i}" for i in range(PROMPTS)],
                "exact_sum": sums, "n_positions": POSITIONS,
            }))  # fmt: skip

    def load(self, run_ids: list[str]) -> pd.DataFrame:
        self.asked = run_ids
        every = pd.concat(self.tables)
        return every[every.run_id.isin(run_ids)]

    def findings(self) -> dict[str, Finding]:
        runs, _ = select(pd.DataFrame(self.rows))
        return {finding.claim.key: finding for finding in evaluate(runs, self.load)}


def pair(store: Store, seeds: int, sft: float, kl: float, **changes: Any) -> None:
    for seed in range(seeds):
        store.add(f"sft{seed}", sft, **{"train.loss": "sft", "train.seed": seed, **changes})
        store.add(f"kl{seed}", kl, **{"train.seed": seed, **changes})


def test_without_runs_nothing_is_concluded():
    found = evaluate([], lambda _: pytest.fail("no sums are needed"))
    assert [finding.verdict for finding in found] == [FEW] * len(CLAIMS)
    assert "sft (black box)" in next(f for f in found if f.claim is SUPERVISION).reason


def test_three_seeds_in_the_stated_range_reproduce_the_claim():
    store = Store()
    pair(store, 3, 0.400, 0.424)
    finding = store.findings()["white_box"]
    (cell,) = finding.cells
    assert finding.verdict == cell.verdict == REPRODUCED
    assert cell.relative.value == pytest.approx(0.06, abs=0.01)
    assert cell.absolute.value == pytest.approx(0.024, abs=0.004)
    assert cell.absolute.low < 0.024 < cell.absolute.high
    assert cell.absolute.n_prompts == PROMPTS
    assert sorted(cell.runs) == ["kl0", "kl1", "kl2", "sft0", "sft1", "sft2"]


def test_pairing_takes_out_what_makes_a_prompt_hard():
    """The prompts differ by .04 and the drafts by .024: unpaired, the interval would hold zero."""
    store = Store()
    pair(store, 3, 0.400, 0.424)
    (cell,) = store.findings()["white_box"].cells
    assert cell.absolute.high - cell.absolute.low < 0.005


def test_one_seed_shows_the_direction_and_no_more():
    store = Store()
    pair(store, 1, 0.40, 0.424)
    finding = store.findings()["white_box"]
    assert finding.verdict == SAME
    assert "3 are needed" in finding.cells[0].reason


def test_evidence_the_other_way_counts_from_the_first_seed_and_says_how_many_there_are():
    for seeds in (1, 3):
        store = Store()
        pair(store, seeds, 0.424, 0.40)
        finding = store.findings()["white_box"]
        assert finding.verdict == NOT
        assert finding.cells[0].reason.startswith(f"{seeds} seed")


def test_a_size_outside_the_stated_range_is_only_the_same_direction():
    store = Store()
    pair(store, 3, 0.30, 0.45)
    (cell,) = store.findings()["white_box"].cells
    assert (cell.verdict, cell.relative.value > 0.4) == (SAME, True)
    assert "outside +2% to +10%" in cell.reason


def test_a_seed_that_disagrees_is_not_averaged_away():
    interval = Interval(0.02, 0.01, 0.03, 40)
    assert judge_cell(SUPERVISION, interval, interval, [0.03, 0.03, 0.03])[0] == REPRODUCED
    assert judge_cell(SUPERVISION, interval, interval, [0.05, 0.05, -0.01])[0] == NOT


def test_an_absolute_reading_counts_too_and_is_named():
    relative, absolute = Interval(0.5, 0.4, 0.6, 40), Interval(0.05, 0.04, 0.06, 40)
    verdict, reason = judge_cell(SUPERVISION, relative, absolute, [0.05] * 3)
    assert verdict == REPRODUCED
    assert "the absolute difference" in reason
    assert "relative" not in reason


def test_no_interval_no_verdict():
    nothing = Interval(0.05, math.nan, math.nan, 1)
    assert judge_cell(SUPERVISION, nothing, nothing, [0.05] * 3)[0] == FEW


@pytest.mark.parametrize(
    "change",
    [{"train.epochs": 2.0}, {"target": "t2"}, {"heldout": "other"}, {"train_hash": "b"}, {"train.seed": 5}, {"measure.top_p": 0.9}],
)  # fmt: skip
def test_runs_that_differ_in_anything_else_are_not_compared(change: dict[str, Any]):
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42, **change)
    assert store.findings()["white_box"].cells == ()


@pytest.mark.parametrize(
    "change", [{"train.eval_every": 7}, {"train.micro_batch_tokens": 64}, {"capture.batch_size": 3}]
)
def test_what_changes_no_result_does_not_stand_in_the_way(change: dict[str, Any]):
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42, **change)
    assert len(store.findings()["white_box"].cells) == 1


def test_black_box_training_without_a_stored_signal_may_be_compared():
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft", "capture.signal": "none"})
    store.add("kl", 0.42)
    assert len(store.findings()["white_box"].cells) == 1


def test_an_answer_of_another_length_is_left_out():
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42)
    store.tables[0].loc[store.tables[0].prompt_id == "p3", "n_positions"] = 7
    (cell,) = store.findings()["white_box"].cells
    assert cell.absolute.n_prompts == PROMPTS - 1


def test_archived_unfinished_and_uncertified_runs_stay_out_and_are_counted():
    rows = [
        row("good"), row("old", archived=True), row("bad", certificate=False), row("none", certificate=None),
        row("busy", state="running"),
    ]  # fmt: skip
    runs, left_out = select(pd.DataFrame(rows))
    assert [run.id for run in runs] == ["good"]
    assert left_out == {"not finished": 1, "archived": 1, "failed or without certificate": 2}


def test_only_the_sums_of_runs_in_a_pair_are_loaded():
    store = Store()
    pair(store, 1, 0.4, 0.42)
    store.add("alone", 0.5, **{"train.loss": "jsd", "prompts.domain": "law"})
    store.findings()
    assert store.asked == ["kl0", "sft0"]


def test_each_temperature_is_a_cell_and_the_weakest_decides():
    store = Store()
    for temperature, kl in ((0.0, 0.424), (1.0, 0.38)):
        for seed in range(3):
            for name, rate in (("sft", 0.40), ("forward_kl", kl)):
                store.add(f"{name}{seed}", rate, temperature=temperature, **{"train.loss": name, "train.seed": seed})
    store.rows = store.rows[:6]  # one run each, measured at both
    finding = store.findings()["white_box"]
    assert [(cell.temperature, cell.verdict) for cell in finding.cells] == [(0.0, REPRODUCED), (1.0, NOT)]
    assert finding.verdict == NOT


def test_online_runs_make_the_second_claim_and_tell_unequal_effort():
    store = Store()
    for seed in range(3):
        store.add(f"on{seed}", 0.40, tokens=500, **{"train.mode": "online", "train.seed": seed, "train.epochs": 1.0})
        store.add(f"off{seed}", 0.46, **{"train.seed": seed})
    finding = store.findings()["offline"]
    assert finding.verdict == REPRODUCED
    assert finding.cells[0].relative.value == pytest.approx(0.15, abs=0.02)
    assert "500 against 1,000 target tokens" in finding.cells[0].remark


def test_synthetic_over_historical():
    store = Store()
    for seed in range(3):
        store.add(f"h{seed}", 0.50, train_hash="h", **{"prompts.scenario": "historical", "train.seed": seed})
        store.add(f"s{seed}", 0.43, train_hash="s", **{"prompts.scenario": "synthetic", "train.seed": seed})
    finding = store.findings()["synthetic"]
    assert finding.verdict == REPRODUCED
    assert 1 + finding.cells[0].relative.value == pytest.approx(0.86, abs=0.01)


def test_two_scenarios_of_the_same_prompts_are_no_comparison():
    store = Store()
    for seed in range(3):
        store.add(f"h{seed}", 0.50, train_hash="h", **{"prompts.scenario": "historical", "train.seed": seed})
        store.add(f"s{seed}", 0.43, train_hash="h", **{"prompts.scenario": "synthetic", "train.seed": seed})
    assert store.findings()["synthetic"].cells == ()
    store.add("real", 0.43, train_hash="s", **{"prompts.scenario": "synthetic", "train.seed": 1})
    (cell,) = store.findings()["synthetic"].cells
    assert cell.runs == ["h1", "real"]


def test_growth_with_the_data_and_offline_s_growing_lead():
    store = Store()
    for seed in range(3):
        for n, offline, online in ((75, 0.30, 0.29), (150, 0.35, 0.32), (300, 0.42, 0.36)):
            shared = {"n_train": n, "train_hash": str(n), "train.seed": seed}
            store.add(f"off{n}-{seed}", offline, **shared)
            store.add(f"on{n}-{seed}", online, **shared, **{"train.mode": "online"})
    found = store.findings()
    assert {cell.verdict for cell in found["size"].cells} == {REPRODUCED}
    assert (found["size"].verdict, "1 domain only" in found["size"].reason) == (
        SAME,
        True,
    )  # the paper says every domain
    assert {cell.where["queries"] for cell in found["size"].cells} == {"75 to 300"}
    (lead,) = found["lead"].cells
    assert lead.absolute.value == pytest.approx(0.05, abs=0.01)
    assert math.isnan(lead.relative.value)
    assert found["lead"].verdict == REPRODUCED


def test_growth_in_two_domains_is_enough():
    store = Store()
    for seed in range(3):
        for domain in ("biology", "law"):
            for n, rate in ((75, 0.30), (300, 0.42)):
                changes = {"prompts.domain": domain, "train.seed": seed}
                store.add(f"{domain}{n}-{seed}", rate, n_train=n, train_hash=str(n), heldout=domain, **changes)
    assert store.findings()["size"].verdict == REPRODUCED


def test_a_generic_draft_under_a_domain_target():
    store = Store()
    for seed in range(3):
        store.add(f"g{seed}", 0.60, target="general", heldout="hg", **{"prompts.domain": "general", "train.seed": seed})
        store.add(f"d{seed}", 0.70, initial=0.45, target="domain", train_hash=f"{seed}",
                  **{"draft.init": "checkpoint", "draft.checkpoint": f"g{seed}", "train.seed": seed})  # fmt: skip
    finding = store.findings()["generic"]
    (cell,) = finding.cells
    assert cell.relative.value == pytest.approx(-0.25, abs=0.02)
    assert finding.verdict == REPRODUCED


def test_the_generic_draft_is_known_by_its_weights_wherever_they_lie():
    store = Store()
    store.add("g", 0.60, target="general", heldout="hg", **{"prompts.domain": "general"})
    store.rows[-1]["provenance"]["measurement"] = {"draft_sha256": "abc"}
    for name, weights in (("d", "abc"), ("e", "another")):
        store.add(name, 0.70, initial=0.45, target=f"domain {name}", heldout=name,
                  **{"draft.init": "checkpoint", "draft.checkpoint": "sample_data/drafts/generic"})  # fmt: skip
        store.rows[-1]["provenance"]["checkpoint_sha256"] = weights
    (cell,) = store.findings()["generic"].cells
    assert cell.runs == ["g", "d"]


def test_the_same_target_on_other_prompts_is_no_domain_target():
    store = Store()
    store.add("g", 0.60, **{"prompts.domain": "general"})
    store.add("d", 0.70, initial=0.45, **{"draft.init": "checkpoint", "draft.checkpoint": "g"})
    assert store.findings()["generic"].cells == ()


def test_the_best_loss_needs_two_rivals():
    store = Store()
    for seed in range(3):
        store.add(f"kl{seed}", 0.45, **{"train.seed": seed})
        store.add(f"tvd{seed}", 0.40, **{"train.seed": seed, "train.loss": "tvd"})
    assert store.findings()["best_loss"].verdict == SAME
    for seed in range(3):
        store.add(f"rkl{seed}", 0.35, **{"train.seed": seed, "train.loss": "reverse_kl"})
    finding = store.findings()["best_loss"]
    assert finding.verdict == REPRODUCED
    assert {cell.where["against"] for cell in finding.cells} == {"tvd", "reverse_kl"}


def test_the_weakest_decided_cell_is_the_verdict():
    assert overall(BEST_LOSS, [(REPRODUCED, ""), (NOT, ""), (FEW, "")], 3)[0] == NOT
    assert overall(BEST_LOSS, [(REPRODUCED, ""), (FEW, "")], 2)[0] == REPRODUCED


def test_missing_seeds_are_asked_for_on_both_sides():
    store = Store()
    pair(store, 1, 0.4, 0.42)
    runs, _ = select(pd.DataFrame(store.rows))
    asked = wanted(store.findings()["white_box"], runs)
    assert {(one.run, one.changes) for one in asked} == {
        (run, (f"train.seed={seed}",)) for run in ("sft0", "kl0") for seed in (1, 2)
    }


def test_the_other_side_is_asked_for_from_a_run_that_exists():
    runs, _ = select(pd.DataFrame([row("kl")]))
    found = {finding.claim.key: finding for finding in evaluate(runs, lambda _: pd.DataFrame())}
    assert [one.changes for one in wanted(found["white_box"], runs)] == [("train.loss=sft",)]
    assert wanted(found["size"], runs)[0].changes == ("prompts.train_prompts=75",)


def test_online_runs_are_asked_for_once_this_version_can_make_them(monkeypatch: pytest.MonkeyPatch):
    runs, _ = select(pd.DataFrame([row("kl")]))
    offline = next(f for f in evaluate(runs, lambda _: pd.DataFrame()) if f.claim is MODE)
    monkeypatch.setattr("engine.measure.wanted.modes", lambda: ("offline",))
    assert wanted(offline, runs) == []
    monkeypatch.setattr("engine.measure.wanted.modes", lambda: ("offline", "online"))
    assert [one.changes for one in wanted(offline, runs)] == [("train.mode=online",)]


def test_near_misses_name_the_difference():
    runs, _ = select(pd.DataFrame([row("kl"), row("sft", **{"train.loss": "sft", "train.epochs": 2.0})]))
    ((base, other, odd),) = near_misses(SUPERVISION, runs)
    assert (base, other) == ("sft", "kl")
    assert odd == {"train.epochs": ("2.0", "6.0")}


def test_facts_prefer_hashes_to_paths():
    here, there = row("a"), row("b")
    there["config"]["prompts"]["train"][0]["path"] = "/elsewhere/train.jsonl"
    assert facts_of(here["config"], here["provenance"]) == facts_of(there["config"], there["provenance"])
    assert facts_of(there["config"], {})["train_prompts"] != facts_of(here["config"], {})["train_prompts"]


def test_the_modes_may_have_schedules_of_their_own_but_the_same_softening():
    assert MODE.may_differ("train.epochs")
    assert not MODE.may_differ("train.distill_temperature")
    assert not SUPERVISION.may_differ("train.epochs")
    assert not GENERIC.paired
