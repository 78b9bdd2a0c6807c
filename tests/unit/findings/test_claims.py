"""Each claim on made-up runs."""

from __future__ import annotations

import math

import pytest

from engine.findings.verdicts import FEW, REPRODUCED, SAME
from tests.unit.findings.made_up_runs import Store


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


@pytest.mark.parametrize("other", [{"measure.top_k": 1}, {"measure.top_p": 0.5}])
def test_a_generic_draft_that_was_measured_under_other_sampling_is_not_compared(other: dict[str, float]):
    store = Store()
    store.add("gen", 0.5, target="base", heldout="g", **{"prompts.domain": "general"}, **other)
    begun = {"draft.init": "checkpoint", "draft.checkpoint": "gen"}
    store.add("bio", 0.6, initial=0.3, target="dom", **begun)
    assert store.findings()["generic"].cells == ()
    store.add("alike", 0.6, initial=0.3, target="dom", **begun, **other)
    (cell,) = store.findings()["generic"].cells
    assert cell.runs == ["gen", "alike"]


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


def test_scenarios_are_compared_at_the_same_number_of_queries():
    store = Store()
    for n in (50, 200):
        for name, rate in (("synthetic", 0.40), ("historical", 0.50)):
            store.add(f"{name}{n}", rate + n / 10000, n_train=n, train_hash=f"{name}{n}", **{"prompts.scenario": name})
    runs = [cell.runs for cell in store.findings()["synthetic"].cells]
    assert sorted(runs) == [["historical200", "synthetic200"], ["historical50", "synthetic50"]]
    store.add("curious", 0.1, n_train=3000, train_hash="c", **{"prompts.scenario": "historical"})
    assert len(store.findings()["synthetic"].cells) == 2  # it is nearest to none


def rule_runs(store: Store, seeds: int, temperature: float) -> None:
    """Forward KL is the best by exact, argmax_ce by argmax."""
    rates = {"forward_kl": (0.50, 0.50), "tvd": (0.48, 0.51), "argmax_ce": (0.44, 0.55)}
    for seed in range(seeds):
        for loss, (exact, argmax) in rates.items():
            store.add(
                f"{loss}{seed}",
                exact,
                argmax=argmax,
                temperature=temperature,
                **{"train.loss": loss, "train.seed": seed},
            )


def test_the_best_loss_depends_on_how_tokens_are_proposed():
    store = Store()
    rule_runs(store, 3, temperature=1.0)
    found = store.findings()
    for key, base, other in (("loss_for_sampled", 0.44, 0.50), ("loss_for_argmax", 0.505, 0.55)):
        assert found[key].verdict == REPRODUCED, found[key].reason
        assert found[key].headline.pooled.base_rate == pytest.approx(base, abs=0.03)
        assert found[key].headline.pooled.other_rate == pytest.approx(other, abs=0.03)
    assert {cell.where["against"] for cell in found["loss_for_argmax"].cells} == {"forward_kl", "tvd"}
    assert {cell.where["against"] for cell in found["best_loss"].cells} == {"tvd"}


def test_sampled_proposals_are_told_from_argmax_ones_above_temperature_zero_alone():
    store = Store()
    rule_runs(store, 3, temperature=0.0)
    found = store.findings()
    assert found["loss_for_sampled"].cells == ()
    assert found["loss_for_argmax"].verdict == REPRODUCED


def test_runs_without_argmax_rates_say_nothing_of_argmax_proposals():
    store = Store()
    for loss in ("forward_kl", "argmax_ce"):
        store.add(loss, 0.4, **{"train.loss": loss})
    found = store.findings()
    assert found["loss_for_argmax"].verdict == FEW
    assert found["loss_for_argmax"].cells == ()


def test_a_seed_that_was_measured_before_argmax_is_left_out_and_named_as_such():
    store = Store()
    for seed, (divergence, hard) in enumerate([(None, None), (0.50, 0.55)]):
        store.add(f"kl{seed}", 0.5, argmax=divergence, **{"train.seed": seed})
        store.add(f"ce{seed}", 0.45, argmax=hard, **{"train.seed": seed, "train.loss": "argmax_ce"})
    (cell,) = store.findings()["loss_for_argmax"].cells
    assert cell.runs == ["kl1", "ce1"]
    assert cell.remark == (
        "Left out: 1 seed measured by an earlier version without argmax (`draftbench measure RUN` adds it)."
    )


def test_a_weight_makes_no_other_loss_of_a_single_one_and_sft_sees_no_distribution():
    def terms(*names: str, weight: float = 1.0) -> list[dict[str, object]]:
        return [{"name": name, "weight": weight, "beta": 0.5, "eta": 3.0, "hard_weight": 1.0} for name in names]

    store = Store()
    store.add("kl", 0.50, argmax=0.50)
    store.add("ce", 0.40, argmax=0.55, **{"train.loss": "argmax_ce"})
    store.add("half-kl", 0.50, argmax=0.50, **{"train.loss": terms("forward_kl", weight=0.5)})
    store.add("half-sft", 0.40, argmax=0.40, **{"train.loss": terms("sft", weight=0.5)})
    store.add("both", 0.45, argmax=0.45, **{"train.loss": terms("sft", "tvd")})
    found = store.findings()
    assert [cell.runs[0] for cell in found["best_loss"].cells] == ["both"]
    assert {cell.runs[0] for cell in found["loss_for_argmax"].cells} == {"kl", "half-kl", "both"}
