"""Everything measured of a draft, end to end on a tiny pair, and what must go wrong when the engine does."""

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch

from engine.chat.prompt import prompts_hash
from engine.decode import speculative
from engine.errors import Cancelled, DraftbenchError
from engine.fileio import finite
from engine.measure import certificate as lossless
from engine.measure import suite
from engine.measure.compare import ON_TARGET_TEXT
from engine.measure.decision import decide
from engine.measure.statistics import ALARM_Z
from engine.measure.suite import Measured, Pair
from engine.models.draft import Draft
from engine.progress import Progress
from engine.records.certificate import Check
from tests.conftest import tiny_llama
from tests.tiny_pair import as_draft, captured, loaded, measured, measured_on, noisy_copy, questions, settings

pytestmark = pytest.mark.slow

torch.set_num_threads(1)
TEMPERATURES = (0.0, 1.0)
EXPECTED = ("exact", "argmax")
COLUMNS = {
    "positions": {
        "draft",
        "temperature",
        "prompt_id",
        "position",
        "token_id",
        "overlap",
        "agree",
        "p",
        "q",
        "argmax_prob",
        "hit",
        "entropy",
    },
    "prompts": {
        "draft",
        "temperature",
        "prompt_id",
        "group",
        "text",
        "exact_sum",
        "argmax_sum",
        "agree_sum",
        "n_positions",
        "prompt_tokens",
        "answer",
        "rounds",
        "drafted",
        "accepted",
        "rejected",
        "discarded",
        "emitted",
    },
    "rounds": {
        "draft",
        "temperature",
        "prompt_id",
        "round",
        "num_draft_tokens",
        "accepted",
        "emitted",
        "draft_s",
        "verify_s",
        "overhead_s",
        "finish_reason",
    },
    "tokens": {
        "draft",
        "temperature",
        "prompt_id",
        "round",
        "slot",
        "position",
        "token_id",
        "text",
        "fate",
        "p",
        "q",
        "u",
        "overlap",
        "alt_ids",
        "alt_texts",
        "alt_p",
        "alt_q",
    },
    "speed": {"prompt_id", "way", "tokens", "seconds"},
}


@pytest.fixture(scope="module")
def captures(tmp_path_factory, target):
    folder = tmp_path_factory.mktemp("captures")
    return {t: captured(folder, target, temperature=t) for t in TEMPERATURES}


@pytest.fixture(scope="module")
def whole(target, captures):
    """A draft that is right partly, measured in full."""
    return measured(target, noisy_copy(0.1), captures, settings(trace_prompts=5))


@pytest.fixture
def no_chi_square(monkeypatch):
    """It costs a second and does not look at the pair."""
    passed = Check(name="chi_square", passed=True)
    monkeypatch.setattr(lossless, "chi_square", lambda **_: passed)


def metric(result, name, temperature, draft="trained"):
    key = {"metric": name, "temperature": temperature, "draft": draft}
    (found,) = [m for m in result.summary.document()["metrics"] if key.items() <= m.items()]
    return found


def test_tables_have_their_columns(whole):
    assert {name: set(table.columns) for name, table in whole.tables.items()} == COLUMNS


def test_positions_hold_every_token_of_both_drafts(whole, captures):
    table = whole.tables["positions"]
    for (draft, temperature), part in table.groupby(["draft", "temperature"]):
        assert draft in ("initial", "trained")
        texts = part.sort_values("position").groupby("prompt_id")["token_id"].agg(list).to_dict()
        assert texts == {a.prompt_id: a.token_ids for a in captures[temperature].answers}
    for column in ("overlap", "p", "q"):
        assert table[column].between(0, 1 + 1e-5).all()


def test_prompts_hold_sums_of_positions_and_of_the_trace(whole):
    prompts, positions = whole.tables["prompts"], whole.tables["positions"]
    sums = positions.groupby(["draft", "temperature", "prompt_id"]).agg(
        exact=("overlap", "sum"), argmax=("argmax_prob", "sum"), agree=("agree", "sum"), n=("position", "count")
    )
    merged = prompts.merge(sums, left_on=["draft", "temperature", "prompt_id"], right_index=True)
    assert len(merged) == len(prompts) == 2 * 2 * 6
    assert (merged.exact_sum - merged.exact).abs().max() < 1e-3
    assert (merged.argmax_sum - merged.argmax).abs().max() < 1e-3
    assert (merged.agree_sum == merged.agree).all()
    assert (merged.n_positions == merged.n).all()
    assert (prompts.drafted.dropna() == (prompts.accepted + prompts.rejected + prompts.discarded).dropna()).all()
    assert set(prompts.group) == {"a", "b"}


def test_only_the_trained_draft_and_the_traced_prompts_have_a_trace(whole):
    prompts = whole.tables["prompts"]
    traced = prompts[prompts.drafted.notna()]
    assert set(traced.draft) == {"trained"}
    assert traced.groupby("temperature").prompt_id.nunique().to_dict() == {0.0: 5, 1.0: 5}
    rounds = whole.tables["rounds"].groupby(["temperature", "prompt_id"])
    expected = traced.set_index(["temperature", "prompt_id"]).rounds.astype(int)
    assert rounds.size().sort_index().to_dict() == expected.sort_index().to_dict()


def test_tokens_of_the_trace_are_those_counted(whole):
    fates = whole.tables["tokens"].groupby(["temperature", "fate"]).size().unstack(fill_value=0)
    traced = whole.tables["prompts"].groupby("temperature")[["accepted", "rejected", "discarded"]].sum()
    for name in ("accepted", "rejected", "discarded"):
        assert fates[name].to_dict() == traced[name].to_dict()


def test_metrics_are_the_ratios_of_the_sums_within_their_intervals(whole):
    table = whole.tables["prompts"]
    for t in TEMPERATURES:
        rows = table[(table.draft == "trained") & (table.temperature == t)]
        accepted = rows.accepted.sum()
        expected = {
            "exact": rows.exact_sum.sum() / rows.n_positions.sum(),
            "argmax": rows.argmax_sum.sum() / rows.n_positions.sum(),
            "greedy_agreement": rows.agree_sum.sum() / rows.n_positions.sum(),
            "per_proposed": accepted / rows.drafted.sum(),
            "per_examined": accepted / (accepted + rows.rejected.sum()),
            "per_emitted": accepted / rows.emitted.sum(),
            "tau": rows.emitted.sum() / rows.rounds.sum(),
        }
        for name, value in expected.items():
            found = metric(whole, name, t)
            assert found["value"] == pytest.approx(value)
            assert found["low"] <= found["value"] <= found["high"]
            assert found["n_prompts"] == (6 if name in ON_TARGET_TEXT else 5)
            assert 1 <= found["value"] <= 4 if name == "tau" else 0 < found["value"] < 1
    initial = {m["metric"] for m in whole.summary.document()["metrics"] if m["draft"] == "initial"}
    assert initial == set(ON_TARGET_TEXT)


def test_at_temperature_zero_exact_is_greedy_agreement(whole):
    for draft in ("initial", "trained"):
        exact, argmax, agreement = (metric(whole, m, 0.0, draft)["value"] for m in ON_TARGET_TEXT)
        assert exact == pytest.approx(agreement)
        assert argmax == pytest.approx(agreement)


def test_argmax_proposals_are_decoded_expected_and_certified(target, captures, monkeypatch):
    """The trace, its alarm and the certificate are those of the rule that is measured."""
    asked = []
    chi_square = lossless.chi_square
    monkeypatch.setattr(lossless, "chi_square", lambda **options: asked.append(options) or chi_square(**options))
    spec = settings(proposals="argmax", speed_prompts=0, max_new_tokens=60)
    result = measured(target, noisy_copy(0.1), captures, spec)
    document = result.summary.document()
    assert document["conditions"]["proposals"] == "argmax"
    assert document["conditions"]["acceptance_rule"] == suite.ACCEPTANCE_RULE, "the rates on the text are the same"
    checks = {check["name"]: check for check in document["certificate"]["checks"]}
    assert document["certificate"]["passed"] is True, document["certificate"]
    assert "p(argmax q)" in checks["sampled_equals_expected"]["detail"]
    for name in ("self_draft", "chi_square", "chi_square_pair"):
        assert "argmax proposals" in checks[name]["detail"]
    assert asked[0]["proposals"] == "argmax"
    tokens = result.tables["tokens"].query("temperature == 1")
    judged = tokens[tokens.fate.isin(["accepted", "rejected"])]
    assert (judged.q == 1).all()
    assert (judged.overlap - judged.p).abs().max() == 0
    corrected = tokens[tokens.fate == "corrected"].set_index(["prompt_id", "round"]).token_id
    refused = tokens[tokens.fate == "rejected"].set_index(["prompt_id", "round"]).token_id
    assert len(refused) > 20
    assert (corrected.loc[refused.index] != refused).all()


def test_sampled_acceptance_agrees_with_the_expected(whole):
    checks = [c for c in whole.summary.document()["certificate"]["checks"] if c["name"] == "sampled_equals_expected"]
    assert [c["passed"] for c in checks] == [True, True]
    assert all(c["n_tokens"] > 30 for c in checks)
    assert checks[1]["figures"]["z"] != 0


def test_the_certificate_holds_every_check(whole):
    certificate = whole.summary.document()["certificate"]
    assert certificate["passed"] is True
    names = [c["name"] for c in certificate["checks"]]
    traced = ["sampled_equals_expected", "traced_equals_captured", "sampled_equals_expected"]
    pair = ["self_draft", "greedy_identity_float32", "ragged_identity_float32", "chi_square_pair"]
    assert names == [*traced, *pair, "chi_square"]
    by_name = {c["name"]: c for c in certificate["checks"]}
    assert by_name["ragged_identity_float32"]["figures"]["side_by_side"] == {"target": True, "draft": True}
    assert len(set(by_name["ragged_identity_float32"]["figures"]["prompt_tokens"])) == 2
    assert "this build" in by_name["chi_square"]["detail"]
    assert "of this pair" in by_name["chi_square_pair"]["detail"]


def test_the_summary_says_under_which_conditions(whole):
    conditions = whole.summary.document()["conditions"]
    assert conditions["heldout_hash"] == prompts_hash(questions())
    assert (conditions["heldout_prompts"], conditions["num_draft_tokens"]) == (6, 3)
    assert (conditions["dtype"], conditions["device"], conditions["threads"]) == ("float32", "cpu", 1)
    assert conditions["acceptance_rule"] == suite.ACCEPTANCE_RULE
    assert whole.summary.document()["as_others_report"][1.0]["sglang_accept_length"] == pytest.approx(
        metric(whole, "tau", 1.0)["value"]
    )
    assert len(whole.summary.document()["by_slot"][0.0]) == 3
    rounds = whole.tables["rounds"]
    drafting = rounds[(rounds.num_draft_tokens > 0) & (rounds.temperature == 0)]
    lengths = whole.summary.document()["accepted_lengths"][0.0]
    assert sum(lengths) == len(drafting) < len(rounds[rounds.temperature == 0])  # some proposed nothing, near the limit
    printed = whole.summary.document()["as_others_report"][0.0]["vllm_mean_acceptance_length"]
    assert printed == pytest.approx(1 + sum(n * many for n, many in enumerate(lengths)) / len(drafting))


def test_speed_is_measured_and_compared_with_the_formula(whole):
    speed = whole.summary.document()["speed"]
    assert set(speed["tokens_per_s"]) == {"plain", "speculative", "transformers"}
    plain, fast, other = (speed["tokens_per_s"][way]["value"] for way in ("plain", "speculative", "transformers"))
    assert speed["speedup"]["value"] == pytest.approx(fast / plain)
    assert speed["speedup_over_transformers"]["value"] == pytest.approx(fast / other)
    assert sum(speed["time_split"].values()) == pytest.approx(1)
    assert speed["alpha"] == pytest.approx(metric(whole, "per_examined", 0.0)["value"])
    assert len(speed["by_gamma"]) == 8
    assert sorted(whole.tables["speed"].way.tolist()) == ["plain"] * 2 + ["speculative"] * 2 + ["transformers"] * 2


def test_improvement_is_positive_for_the_target_itself_against_a_random_draft(target, captures, no_chi_square):
    result = measured(target, target.model, captures, settings(speed_prompts=0))
    rows = result.summary.document()["improvement"]
    assert {(row["temperature"], row["metric"]) for row in rows} == set(itertools.product(TEMPERATURES, EXPECTED))
    for found in rows:
        name = found["metric"]
        trained, initial = (metric(result, name, found["temperature"], d)["value"] for d in ("trained", "initial"))
        assert found["value"] == pytest.approx(trained - initial)
        assert found["low"] > 0
    assert metric(result, "per_examined", 1.0)["value"] == 1
    assert metric(result, "per_proposed", 0.0)["value"] == 1
    assert metric(result, "tau", 1.0)["value"] == 4
    assert metric(result, "exact", 1.0)["value"] > 0.99
    assert "speed" not in result.summary
    assert "speed" not in result.tables


def test_the_alarm_rings_where_the_recorded_q_is_not_the_one_sampled(target, captures, no_chi_square, monkeypatch):
    proposals = speculative.proposals

    def recorded_sharper(*args):
        proposal = proposals(*args)
        if proposal.probs is None:
            return proposal
        squared = proposal.probs**2
        return speculative.Proposal(proposal.ids, squared / squared.sum(-1, keepdim=True))

    monkeypatch.setattr(speculative, "proposals", recorded_sharper)
    spec = settings(speed_prompts=0, max_new_tokens=80)
    result = measured(target, noisy_copy(0.1), {1.0: captures[1.0]}, spec)
    (alarm,) = [c for c in result.summary.document()["certificate"]["checks"] if c["name"] == "sampled_equals_expected"]
    assert alarm["passed"] is False
    assert abs(alarm["figures"]["z"]) > ALARM_Z
    assert result.summary.document()["certificate"]["passed"] is False


def test_a_trace_does_not_depend_on_how_it_is_batched(target, captures, monkeypatch):
    answers, draft = captures[1.0].answers, as_draft(noisy_copy())

    decoding = suite.decode_settings(settings(), 1.0, target.stop_ids, cost_ratio=0.0)

    def told():
        rounds = suite.trace_prompts(Pair(target, draft), answers, decoding)
        by_row = sorted(rounds, key=lambda r: (r.row, r.number))
        return [(r.row, r.number, [(t.token_id, t.fate) for t in r.tokens]) for r in by_row]

    together = told()
    monkeypatch.setattr(suite, "_TRACE_BATCH", 2)
    assert told() == together
    assert {row for row, *_ in together} == set(range(6))


def test_the_gamma_rule_follows_the_settings():
    adaptive = suite.draft_length(settings(adaptive=True, num_draft_tokens=4), cost_ratio=0.01)
    fixed = suite.draft_length(settings(num_draft_tokens=4), cost_ratio=0.01)
    for _ in range(50):
        adaptive.saw(0, 1)
        fixed.saw(0, 1)
    assert (adaptive.next(), fixed.next()) == (1, 4)
    for _ in range(50):
        adaptive.saw(4, 4)
    assert adaptive.next() == 4
    dear = suite.draft_length(settings(adaptive=True, num_draft_tokens=4), cost_ratio=1.0)
    for _ in range(50):
        dear.saw(4, 5)
    assert dear.next() == 1  # a draft as slow as its target never pays


def test_adaptive_gamma_stays_within_num_draft_tokens(target, captures, no_chi_square):
    spec = settings(adaptive=True, num_draft_tokens=4, max_new_tokens=30, speed_prompts=1)
    result = measured(target, target.model, {1.0: captures[1.0]}, spec)
    assert result.summary.document()["conditions"]["adaptive"] is True
    assert result.tables["rounds"].num_draft_tokens.between(0, 4).all()


def test_where_gamma_adapted_no_figure_claims_to_be_of_one_gamma(target, captures, no_chi_square):
    spec = settings(adaptive=True, num_draft_tokens=8, speed_tokens=12)
    summary = measured(target, tiny_llama(layers=2, seed=5), {0.0: captures[0.0]}, spec).summary
    speed, decision = summary.speed, decide(summary)
    assert speed.forward_s.num_draft_tokens is None
    assert math.isnan(speed.predicted_speedup.formula)
    assert summary.conditions.gamma == "up to 8, by the acceptance"
    assert not [words for words in (*decision.reasons, *decision.changes) if "gamma" in words]


def test_low_precision_adds_margins_to_the_certificate(captures, no_chi_square, target, monkeypatch):
    seen = []
    for name in ("self_draft", "greedy_identity"):
        check = getattr(lossless, name)

        def noted(model, *args, _name=name, _check=check, **options):
            seen.append((_name, str(model.dtype)))
            return _check(model, *args, **options)

        monkeypatch.setattr(lossless, name, noted)
    low = loaded(tiny_llama().bfloat16())
    draft = as_draft(noisy_copy())
    draft16 = Draft(noisy_copy().bfloat16(), draft.info)
    pair, exact = Pair(low, draft16), Pair(target, draft)
    checks = suite.certificate(pair, exact, captures[0.0].answers, settings(), Progress(quiet=True))
    # What must hold is asked of the float32 pair; the pair in use is only reported on.
    assert seen == [
        ("self_draft", "torch.float32"),
        ("greedy_identity", "torch.float32"),
        ("greedy_identity", "torch.bfloat16"),
    ]
    assert [c.name for c in checks][-1] == "greedy_margins_low_precision"
    assert checks[-1].passed is None
    assert "greedy_identity_float32" in [c.name for c in checks]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_in_low_precision_the_texts_that_were_timed_are_not_decoded_again(captures, no_chi_square, temperature):
    low, settled = loaded(tiny_llama().bfloat16()), settings(speed_prompts=3, speed_temperature=temperature)
    low_draft, draft = as_draft(noisy_copy().bfloat16()), as_draft(noisy_copy())
    pair, exact, answers = Pair(low, low_draft), Pair(loaded(tiny_llama()), draft), captures[0.0].answers
    timed = suite._time(pair, answers[:3], settled, 0.0, Progress(quiet=True))
    *_, margins = suite.certificate(pair, exact, answers, settled, Progress(quiet=True), timed)
    assert (margins.name, margins.passed) == ("greedy_margins_low_precision", None)
    # three answers of six tokens were timed; of drawn ones nothing follows, and two of four are decoded
    assert margins.n_tokens == (18 if temperature == 0 else 8)


def test_prompts_are_measured_in_the_order_given(target, captures, no_chi_square):
    asked, spec = questions(), settings(speed_prompts=0, trace_prompts=1)
    result = measured_on(target, noisy_copy(), {1.0: captures[1.0]}, [asked[3], asked[1]], spec)
    assert result.tables["prompts"].prompt_id.tolist() == ["q3", "q1"] * 2
    assert set(result.tables["tokens"].prompt_id) == {"q3"}


@pytest.mark.parametrize("prompts", [[], [questions()[0], replace(questions()[1], id="nowhere")]])
def test_without_a_prompt_to_measure_on_it_says_so(target, captures, prompts):
    with pytest.raises(DraftbenchError, match="no held-out prompt"):
        measured_on(target, target.model, captures, prompts, settings())


def test_it_stops_when_asked(target, captures):
    asked = Progress(quiet=True, stop_wanted=lambda: True)
    with pytest.raises(Cancelled):
        measured_on(target, target.model, captures, questions()[:1], settings(), asked)


def test_what_is_saved_can_be_read_again(whole, tmp_path):
    whole.save(tmp_path)
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / f"{name}.parquet"), table)
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {f"{n}.parquet" for n in COLUMNS} | {"summary.json"}
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == json.loads(json.dumps(finite(whole.summary.document())))


def test_the_summary_is_saved_last(whole, tmp_path, monkeypatch):
    renamed = []
    replace = Path.replace
    monkeypatch.setattr(Path, "replace", lambda path, to: (renamed.append(to.name), replace(path, to)))
    whole.save(tmp_path)
    assert len(renamed) == len(COLUMNS) + 1
    assert renamed[-1] == "summary.json"


def test_a_measurement_cut_short_costs_none_that_was_there(whole, tmp_path):
    whole.save(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    class Broken(pd.DataFrame):
        def to_parquet(self, *args, **options):
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        Measured(whole.summary, {**whole.tables, "tokens": Broken()}).save(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    (tmp_path / ".new").mkdir()  # of a kill
    Measured(whole.summary, {"prompts": whole.tables["prompts"]}).save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"prompts.parquet", "summary.json"}


def test_a_single_prompt_has_a_value_and_no_interval(target, captures, no_chi_square, tmp_path):
    spec = settings(speed_prompts=0)
    result = measured_on(target, noisy_copy(), {1.0: captures[1.0]}, questions()[:1], spec)
    found = metric(result, "exact", 1.0)
    assert 0 < found["value"] < 1
    assert math.isnan(found["low"])
    result.save(tmp_path)
