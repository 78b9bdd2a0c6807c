"""The facts of a run, which say what it may be compared with."""

from __future__ import annotations

from typing import Any

import yaml

from engine.config.reading import parse_recipe
from engine.findings.claims import GENERIC, MODE, SUPERVISION
from engine.findings.efforts import Schedules
from engine.findings.runs import facts_of
from engine.paths import PROJECT_ROOT
from engine.records.provenance import Provenance
from tests.unit.findings.made_up_runs import STREAM, Store, row, selected


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


def test_token_selection_is_taught_and_not_a_schedule():
    store = Store()
    store.add("on", 0.40, tokens=1000, steps=50, **STREAM)
    store.add("off", 0.46, tokens=6000, steps=75, **{"train.selection": {"share": 0.4, "reference": "r"}})
    assert not store.findings()["offline"].cells
    store.add("plain", 0.46, tokens=6000, steps=75)
    store.add("plain-too", 0.46, tokens=6000, steps=75, **{"train.seed": 1})
    runs, _ = selected(store.rows)
    usual = min((run for run in runs if run.facts["train.mode"] == "offline"), key=Schedules(runs).rank)
    assert usual.id == "plain"  # as most were, though the one on selected tokens is the newest


def test_the_reference_of_token_selection_is_known_by_its_weights():
    here, there, other = (row(name, **{"train.selection": {"share": 0.4, "reference": name}}) for name in "abc")
    for made, weights in ((here, "same"), (there, "same"), (other, "others")):
        made["provenance"]["reference_sha256"] = weights
    facts = [facts_of(made["config"], Provenance.of_values(made["provenance"])) for made in (here, there, other)]
    assert facts[0] == facts[1] != facts[2]


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


def test_the_seed_of_greedy_answers_tells_no_runs_apart():
    def seed(temperature: float, value: int) -> Any:
        values = row("a")["config"]
        values["capture"] |= {"temperature": temperature, "seed": value}
        return facts_of(values, Provenance()).get("capture.seed")

    assert seed(0.0, 1) == seed(0.0, 2)
    assert seed(1.0, 1) != seed(1.0, 2)


def test_a_server_is_known_by_who_answers():
    def facts(**server: Any) -> dict[str, Any]:
        values = row("a")["config"]
        values["capture"]["server"] = {"base_url": "http://a/v1", "model": "m", "concurrency": 4} | server
        return facts_of(values, Provenance())

    assert facts() == facts(concurrency=9)
    assert facts() != facts(model="n")
    assert facts() != facts_of(row("a")["config"], Provenance())
