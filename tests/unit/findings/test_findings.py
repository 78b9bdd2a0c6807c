"""Claims on made-up runs: what may be paired, what is measured, and which verdict follows."""

from __future__ import annotations

import copy
import math
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from engine.config.reading import parse_recipe
from engine.findings.claims import BEST_LOSS, CLAIMS, GENERIC, MODE, SCENARIO, SUPERVISION
from engine.findings.efforts import OWN, STEPS, TOKENS, efforts_of
from engine.findings.evaluate import Finding, evaluate
from engine.findings.missing import missing_runs, missing_study, near_misses
from engine.findings.pooling import Side, effect, seed_mean
from engine.findings.runs import Run, facts_of, select
from engine.findings.verdicts import FEW, NOT, REPRODUCED, SAME, judge_cell, overall
from engine.measure.compare import Sums
from engine.paths import PROJECT_ROOT
from engine.records.interval import Interval
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
    for key, value in changes.items():
        if "." in key:
            section, name = key.split(".")
            values[section][name] = value
        else:
            state[key] = value
    if isinstance(values["train"]["loss"], str):
        values["train"]["loss"] = [{"name": values["train"]["loss"], "weight": 1.0, "beta": 0.5, "eta": 3.0}]
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

    def add(self, run_id: str, rate: float, *, initial: float = 0.0, temperature: float = 0.0, **changes: Any) -> None:
        self.rows.append(row(run_id, **changes))
        ease = np.random.default_rng(7).normal(0, 0.04, PROMPTS)
        noise = np.random.default_rng(zlib.crc32(run_id.encode())).normal(0, 0.005, PROMPTS)
        for draft, value in (("trained", rate), ("initial", initial)):
            sums = POSITIONS * np.clip(value + ease + noise, 0, 1)
            self.tables.append(
                pd.DataFrame(
                    {
                        "run_id": run_id,
                        "draft": draft,
                        "temperature": temperature,
                        "prompt_id": [f"p{i}" for i in range(PROMPTS)],
                        "exact_sum": sums,
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
    [
        {"train.epochs": 2.0},
        {"target": "t2"},
        {"heldout": "other"},
        {"train_hash": "b"},
        {"train.seed": 5},
        {"measure.top_p": 0.9},
        {"train.eval_every": 7},
        {"train.eval_prompts": 7},
    ],
)
def test_runs_that_differ_in_anything_else_are_not_compared(change: dict[str, Any]):
    store = Store()
    store.add("sft", 0.4, **{"train.loss": "sft"})
    store.add("kl", 0.42, **change)
    assert store.findings()["white_box"].cells == ()


@pytest.mark.parametrize(
    "change", [{"train.checkpoint_every": 7}, {"train.micro_batch_tokens": 64}, {"capture.batch_size": 3}]
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
        row("good"),
        row("old", archived=True),
        row("bad", certificate=False),
        row("none", certificate=None),
        row("busy", state="running"),
    ]
    runs, left_out = selected(rows)
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
        store.add(
            f"on{seed}", 0.40, tokens=500, steps=30, **{"train.mode": "online", "train.seed": seed, "train.epochs": 1.0}
        )
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
            store.add(f"on{n}-{seed}", online, tokens=500, steps=30, **shared, **{"train.mode": "online"})
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
        store.add(
            f"d{seed}",
            0.70,
            initial=0.45,
            target="domain",
            train_hash=f"{seed}",
            **{"draft.init": "checkpoint", "draft.checkpoint": f"g{seed}", "train.seed": seed},
        )
    finding = store.findings()["generic"]
    (cell,) = finding.cells
    assert cell.relative.value == pytest.approx(-0.25, abs=0.02)
    assert finding.verdict == REPRODUCED


def test_the_generic_draft_is_known_by_its_weights_wherever_they_lie():
    store = Store()
    store.add("g", 0.60, target="general", heldout="hg", **{"prompts.domain": "general"})
    store.rows[-1]["provenance"]["measurement"] = {"draft_sha256": "abc"}
    for name, weights in (("d", "abc"), ("e", "another")):
        store.add(
            name,
            0.70,
            initial=0.45,
            target=f"domain {name}",
            heldout=name,
            **{"draft.init": "checkpoint", "draft.checkpoint": "sample_data/drafts/generic"},
        )
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
    assert overall(BEST_LOSS, [(REPRODUCED, ""), (REPRODUCED, "")], 2)[0] == REPRODUCED


def test_an_undecided_cell_keeps_a_claim_from_being_reproduced():
    verdict, reason = overall(SUPERVISION, [(REPRODUCED, "")] + [(FEW, "")] * 19, 1)
    assert (verdict, reason[:7]) == (SAME, "1 of 20")


@pytest.mark.parametrize(("middle", "last", "verdict"), [(0.43, FEW, SAME), (0.39, NOT, NOT)])
def test_one_seed_the_other_way_counts_unless_it_may_be_chance(middle: float, last: str, verdict: str):
    store = Store()
    for n, kl in ((75, 0.43), (150, middle), (300, 0.39)):
        shared = {"n_train": n, "train_hash": str(n)}
        store.add(f"sft{n}", 0.40, **shared, **{"train.loss": "sft"})
        store.add(f"kl{n}", kl, **shared)
    finding = store.findings()["white_box"]
    verdicts = {cell.where["queries"]: (cell.verdict, cell.reason) for cell in finding.cells}
    assert verdicts["300"][0] == last
    assert "the other way" in verdicts["300"][1]
    assert finding.verdict == verdict


def test_the_ratio_of_claim_four_is_not_read_as_points():
    relative, absolute = Interval(-0.4, -0.5, -0.3, 40), Interval(-0.1, -0.12, -0.08, 40)
    verdict, reason = judge_cell(SCENARIO, relative, absolute, [-0.1] * 3)
    assert verdict == SAME
    assert reason.endswith("-7%, relative")


def test_other_text_of_the_same_length_is_left_out_and_told():
    store = Store()
    pair(store, 1, 0.40, 0.42)
    for table in store.tables:
        table["answer"] = [f"answer {i}" for i in range(PROMPTS)]
    store.tables[0].loc[store.tables[0].prompt_id == "p3", "answer"] = "another"  # of sft0, trained
    (cell,) = store.findings()["white_box"].cells
    assert cell.absolute.n_prompts == PROMPTS - 1
    assert "Left out: 1 prompt" in cell.remark


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


def test_near_misses_name_the_difference():
    runs, _ = selected([row("kl"), row("sft", **{"train.loss": "sft", "train.epochs": 2.0})])
    ((base, other, odd),) = near_misses(SUPERVISION, runs)
    assert (base, other) == ("sft", "kl")
    assert odd == {"train.epochs": ("2.0", "6.0")}


def test_facts_prefer_hashes_to_paths():
    here, there = row("a"), row("b")
    there["config"]["prompts"]["train"][0]["path"] = "/elsewhere/train.jsonl"
    assert facts_of(here["config"], Provenance.of_values(here["provenance"])) == facts_of(
        there["config"], Provenance.of_values(there["provenance"])
    )
    assert (
        facts_of(there["config"], Provenance())["train_prompts"]
        != facts_of(here["config"], Provenance())["train_prompts"]
    )


def test_the_modes_may_have_schedules_of_their_own_but_the_same_softening():
    assert MODE.may_differ("train.epochs")
    assert not MODE.may_differ("train.distill_temperature")
    assert not SUPERVISION.may_differ("train.epochs")
    assert not GENERIC.paired


# ---------------------------------------------------------------- modes and their settings


SAMPLE = next((PROJECT_ROOT / "sample_data" / "runs").glob("biology-forward-kl-*/config.yaml"))


def test_an_old_run_and_a_new_one_with_the_same_used_settings_have_equal_facts():
    old = yaml.safe_load(SAMPLE.read_text(encoding="utf-8"))
    assert not {"online", "on_policy", "selection"} & old["train"].keys()  # it was made before there were modes
    new = parse_recipe(old).model_dump(mode="json")
    assert {"online", "on_policy", "selection"} <= new["train"].keys()
    origin = Provenance.read_or_empty(SAMPLE.parent)
    assert facts_of(old, origin) == facts_of(new, origin)
    new["train"]["online"]["update_interval"] = 99
    new["train"]["on_policy"]["share"] = 0.1
    new["capture"]["server"] = None
    assert facts_of(old, origin) == facts_of(new, origin)


def test_the_settings_of_the_mode_that_is_used_are_facts():
    def facts(**train: Any) -> dict[str, Any]:
        values = row("a")["config"]
        values["train"] |= train
        return facts_of(values, Provenance())

    online = row("a")["config"]["train"]["online"]
    assert facts(mode="online") != facts(mode="online", online={**online, "update_interval": 99})
    assert facts(mode="online") == facts(mode="online", epochs=99.0)  # a stream has no epochs
    assert facts(mode="on_policy") != facts(mode="on_policy", on_policy={"share": 0.1})
    assert facts(selection={"share": 1.0}) == facts()
    assert facts(selection={"share": 0.5, "reference": "x"}) != facts()


def test_a_server_is_known_by_who_answers():
    def facts(**server: Any) -> dict[str, Any]:
        values = row("a")["config"]
        values["capture"]["server"] = {"base_url": "http://a/v1", "model": "m", "concurrency": 4} | server
        return facts_of(values, Provenance())

    assert facts() == facts(concurrency=9)
    assert facts() != facts(model="n")
    assert facts() != facts_of(row("a")["config"], Provenance())


# ---------------------------------------------------------------- kinds of effort

STREAM = {"train.mode": "online"}


def streams_and_epochs(store: Store, seeds: int = 1, n: int = 300, online: float = 0.40, **changes: Any) -> None:
    """An online run, and offline ones at their own schedule, of equal tokens and of equal steps."""
    for seed in range(seeds):
        shared = {"train.seed": seed, "n_train": n, "train_hash": str(n), **changes}
        store.add(f"on{n}-{seed}", online, tokens=1000, steps=75, **shared, **STREAM)
        store.add(f"steps{n}-{seed}", 0.41, tokens=1500, steps=75, **shared, **{"train.max_steps": 75})
        store.add(f"tokens{n}-{seed}", 0.405, tokens=1010, steps=38, **shared, **{"train.epochs": 1.0})
        store.add(f"own{n}-{seed}", 0.46, tokens=6000, steps=225, **shared)


def test_an_online_run_is_compared_at_three_kinds_of_effort_each_with_its_own_run():
    store = Store()
    streams_and_epochs(store)
    finding = store.findings()["offline"]
    assert [outcome.effort for outcome in finding.outcomes] == [OWN, TOKENS, STEPS]
    runs = [[run for cell in outcome.cells for run in cell.runs] for outcome in finding.outcomes]
    assert runs == [["on300-0", "own300-0"], ["on300-0", "tokens300-0"], ["on300-0", "steps300-0"]]
    own, tokens, steps = finding.outcomes
    assert own.pooled.relative.value == pytest.approx(0.15, abs=0.02)
    assert tokens.pooled.relative.value == pytest.approx(0.0125, abs=0.01)
    assert finding.verdict == own.verdict
    assert "6,000 target tokens" in own.cells[0].remark
    assert "target tokens" not in tokens.cells[0].remark
    assert steps.verdict != REPRODUCED


def test_the_headline_is_at_own_schedule_even_where_equal_effort_says_otherwise():
    store = Store()
    streams_and_epochs(store, seeds=3)
    for table in store.tables:
        if table.run_id.iloc[0].startswith(("tokens", "steps")):
            table["exact_sum"] -= 5  # offline loses once both saw as much
    finding = store.findings()["offline"]
    assert [outcome.verdict for outcome in finding.outcomes] == [REPRODUCED, NOT, NOT]
    assert finding.verdict == REPRODUCED


def test_one_run_may_be_equal_in_both_and_counts_for_both():
    store = Store()
    store.add("on", 0.40, tokens=1000, steps=75, **STREAM)
    store.add("twin", 0.42, tokens=1000, steps=75)
    finding = store.findings()["offline"]
    assert [len(outcome.cells) for outcome in finding.outcomes] == [0, 1, 1]
    assert finding.verdict == FEW


@pytest.mark.parametrize(("tokens", "kind"), [(1019, TOKENS), (981, TOKENS), (1030, OWN), (970, OWN)])
def test_equal_means_within_two_percent(tokens: int, kind: str):
    stream, offline = (
        selected([r])[0][0] for r in (row("on", tokens=1000, steps=10, **STREAM), row("off", tokens=tokens))
    )
    assert efforts_of(stream, offline) == {kind}


def test_an_unrelated_stream_as_long_as_offline_s_own_schedule_changes_nothing():
    store = Store()
    store.add("off", 0.46, tokens=6000, steps=75)
    store.add("sft", 0.40, tokens=6000, steps=75, **{"train.loss": "sft"})
    store.add("on", 0.40, tokens=1000, steps=50, **STREAM)
    before = store.findings()
    store.add("stray", 0.30, tokens=1000, steps=75, **{"train.loss": "sft"}, **STREAM)
    after = store.findings()
    own = [cell.runs for cell in after["offline"].outcomes[0].cells]
    assert ["on", "off"] in own
    assert before["white_box"].cells[0].runs == after["white_box"].cells[0].runs
    store.add("other", 0.30, tokens=1000, steps=75, **STREAM)  # of its loss, but nothing longer was trained
    assert ["on", "off"] in [cell.runs for cell in store.findings()["offline"].outcomes[0].cells]


def test_the_number_of_evaluations_that_the_best_was_chosen_from_is_told():
    store = Store()
    store.add("on", 0.40, tokens=1000, steps=50, **{"train.eval_every": 15}, **STREAM)
    store.add("off", 0.46, tokens=6000, steps=75, **{"train.eval_every": 15})
    (cell,) = store.findings()["offline"].outcomes[0].cells
    assert "5 against 6 evaluations" in cell.remark


def test_what_a_stream_does_not_use_makes_no_other_schedule():
    values = [row("on", **STREAM, **changes)["config"] for changes in ({}, {"train.max_steps": 9}, {"train.epochs": 2})]
    assert len({str(facts_of(config, Provenance())) for config in values}) == 1


def test_one_epoch_is_one_pass_though_the_answers_are_others():
    stream, once = (
        selected([r])[0][0]
        for r in (row("on", tokens=1000, steps=10, **STREAM), row("off", tokens=1060, **{"train.epochs": 1.0}))
    )
    assert efforts_of(stream, once) == {TOKENS}


def test_of_several_schedules_the_one_most_runs_have_is_offline_s_own():
    store = Store()
    for seed in range(2):
        store.add(f"odd{seed}", 0.50, tokens=9000, steps=900, **{"train.epochs": 24.0, "train.seed": seed})
        store.add(f"on{seed}", 0.40, tokens=1000, steps=75, **{"train.seed": seed}, **STREAM)
        store.add(f"usual{seed}", 0.45, tokens=6000, steps=225, **{"train.seed": seed})
    store.add("usual-tvd", 0.4, tokens=6000, steps=225, **{"train.loss": "tvd"})
    (cell,) = store.findings()["offline"].outcomes[0].cells
    assert cell.runs == ["on0", "usual0", "on1", "usual1"]


def test_two_streams_of_other_settings_are_two_places_of_which_the_usual_counts():
    store = Store()
    streams_and_epochs(store, seeds=2)
    online = row("x")["config"]["train"]["online"] | {"update_interval": 50}
    store.add("slow", 0.30, tokens=1000, steps=6, train_hash="300", **{"train.online": online}, **STREAM)
    cells = store.findings()["offline"].outcomes[0].cells
    assert [(cell.counts, "slow" in cell.runs) for cell in cells] == [(True, False), (False, True)]
    assert "train.online.update_interval 50 instead of 8" in cells[1].remark


def test_runs_cut_to_a_stream_s_effort_do_not_speak_in_other_claims():
    store = Store()
    for n in (75, 300):
        streams_and_epochs(store, n=n)
        shared = {"n_train": n, "train_hash": str(n), "train.loss": "sft"}
        store.add(f"sft{n}", 0.45, tokens=6000, steps=225, **shared)
        store.add(f"sft-once{n}", 0.50, tokens=1010, steps=38, **shared, **{"train.epochs": 1.0})
    found = store.findings()
    cut = [cell for cell in found["white_box"].cells if "tokens300-0" in cell.runs]
    assert [cell.counts for cell in cut] == [False]
    assert found["white_box"].verdict != NOT  # as the cut pair alone would have it
    counted = [cell.runs for cell in found["size"].cells if cell.counts and cell.where["train.mode"] == "offline"]
    assert sorted(counted) == [["own75-0", "own300-0"], ["sft75", "sft300"]]
    assert not any({"steps75-0", "steps300-0"} & set(cell.runs) for cell in found["size"].cells if cell.counts)


def test_more_queries_that_were_more_training_are_remarked():
    store = Store()
    store.add("few", 0.30, n_train=75, train_hash="75", tokens=100, steps=10)
    store.add("many", 0.42, n_train=300, train_hash="300", tokens=400, steps=40)
    (cell,) = store.findings()["size"].cells
    assert (
        cell.remark
        == "More queries were more training too: 10 against 40 optimiser steps, 100 against 400 target tokens. "
        "The best weights of 2 against 3 evaluations during training were measured."
    )


def test_the_lead_is_told_at_each_kind_of_effort():
    store = Store()
    for n, online in ((75, 0.40), (300, 0.38)):
        streams_and_epochs(store, seeds=3, n=n, online=online)
    lead = store.findings()["lead"]
    assert [len(outcome.cells) for outcome in lead.outcomes] == [1, 1, 1]
    assert lead.headline.pooled.absolute.value == pytest.approx(0.02, abs=0.005)
    assert lead.verdict == REPRODUCED


def test_a_draft_that_kept_its_first_weights_is_remarked():
    store = Store()
    pair(store, 1, 0.40, 0.42)
    store.rows[0]["training"]["best_step"] = 0
    (cell,) = store.findings()["white_box"].cells
    assert cell.remark.startswith("1 of 2 drafts is the one that training began with")


# ---------------------------------------------------------------- sizes of scenarios, pooling


def test_scenarios_are_compared_at_the_same_number_of_queries():
    store = Store()
    for n in (50, 200):
        for name, rate in (("synthetic", 0.40), ("historical", 0.50)):
            store.add(f"{name}{n}", rate + n / 10000, n_train=n, train_hash=f"{name}{n}", **{"prompts.scenario": name})
    runs = [cell.runs for cell in store.findings()["synthetic"].cells]
    assert sorted(runs) == [["historical200", "synthetic200"], ["historical50", "synthetic50"]]
    store.add("curious", 0.1, n_train=3000, train_hash="c", **{"prompts.scenario": "historical"})
    assert len(store.findings()["synthetic"].cells) == 2  # it is nearest to none


def test_domains_count_equally_and_cells_within_them_are_added_up():
    store = Store()
    for domain, sft, kl in (("biology", 0.40, 0.44), ("law", 0.20, 0.20)):
        changes = {"prompts.domain": domain}
        store.add(f"sft-{domain}", sft, heldout=domain, **changes, **{"train.loss": "sft"})
        store.add(f"kl-{domain}", kl, heldout=domain, **changes)
    finding = store.findings()["white_box"]
    domains = finding.headline.by_domain
    assert domains["biology"].relative.value == pytest.approx(0.10, abs=0.01)
    pooled = finding.headline.pooled
    assert pooled.other_rate == pytest.approx((domains["biology"].other_rate + domains["law"].other_rate) / 2)
    assert pooled.relative.value == pytest.approx(0.64 / 0.60 - 1, abs=0.01)
    assert (pooled.n_cells, len(pooled.runs), pooled.absolute.n_prompts) == (2, 4, 2 * PROMPTS)
    assert pooled.absolute.low < pooled.absolute.value < pooled.absolute.high


def test_a_seed_that_one_place_lacks_is_no_seed_of_the_whole():
    store = Store()
    pair(store, 3, 0.40, 0.424)
    for name, rate in (("sft", 0.40), ("kl", 0.424)):
        loss = {"train.loss": "sft"} if name == "sft" else {}
        store.add(f"{name}-law", rate, heldout="law", **{"prompts.domain": "law"}, **loss)
    pooled = store.findings()["white_box"].headline.pooled
    assert len(pooled.by_seed) == 1
    assert pooled.verdict == SAME


def test_one_cell_pooled_is_that_cell():
    store = Store()
    pair(store, 3, 0.400, 0.424)
    finding = store.findings()["white_box"]
    (cell,), pooled = finding.cells, finding.headline.pooled
    assert (pooled.relative, pooled.absolute) == (cell.relative, cell.absolute)


def side(heldout: str, accepted: list[float], positions: float = 50.0) -> Side:
    prompts = pd.Index([f"p{i}" for i in range(len(accepted))])
    return Side(heldout, Sums(prompts, np.array(accepted), np.full(len(accepted), positions)))


def test_more_seeds_in_a_cell_do_not_weigh_more():
    a, b = side("h", [10.0, 20.0]), side("h", [20.0, 40.0])
    mean = seed_mean([a, a, a])
    assert list(mean.sums.prompts) == ["p0", "p1"]
    assert (list(mean.sums.numerators), list(mean.sums.denominators)) == ([10.0, 20.0], [50.0, 50.0])
    three = effect([[(a, seed_mean([b, b, b]))]])
    assert three == effect([[(a, b)]])
    assert three.relative.value == pytest.approx(1.0)
    assert (three.relative.low, three.relative.high) == pytest.approx((1.0, 1.0))  # the same in every prompt


def test_prompts_of_different_sets_are_drawn_on_their_own():
    accepted = [5.0, 45.0] * 20
    same = effect([[(side("h", accepted), side("h", accepted))]])
    apart = effect([[(side("h", accepted), side("other", accepted))]])
    assert (same.absolute.low, same.absolute.high) == (0, 0)
    assert apart.absolute.low < -0.05 < 0.05 < apart.absolute.high


# ---------------------------------------------------------------- the study that would decide


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
    from engine.study.spec import load_study

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
            assert load_study(tmp_path / made.file_name).name == made.name
            read += 1
    assert read >= 5


def test_a_decided_claim_wants_no_study():
    store = Store()
    pair(store, 3, 0.400, 0.424)
    runs, _ = selected(store.rows)
    assert missing_study(store.findings()["white_box"], runs) is None
