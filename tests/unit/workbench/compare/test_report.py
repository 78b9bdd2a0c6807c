"""A comparison worked out of plain frames, and its report: true to the numbers, whole, offline, and deaf to markup."""

import re
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pytest

from engine.decode.events import Fate, Round, Token
from engine.index.queries import Run
from engine.measure.definitions import SERVED_TEXT
from engine.records.provenance import Provenance
from engine.records.summary import Summary
from engine.records.training import Training
from engine.traces.trace import Trace
from workbench.compare import comparison, every_run, figures, report, tables
from workbench.shared import downloads

EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"
CONDITIONS = {
    "num_draft_tokens": 2,
    "adaptive": False,
    "top_p": 1.0,
    "top_k": 0,
    "dtype": "float32",
    "device": "cpu",
    "acceptance_rule": "sampled",
    "heldout_hash": "abc",
    "heldout_prompts": 6,
    "threads": 2,
}


def run(run_id: str, **changes) -> Run:
    conditions = {**CONDITIONS, **changes.pop("conditions", {})}
    summary = {
        "conditions": conditions,
        "improvement": [{"temperature": 0.0, "metric": "exact"}],
        "accepted_lengths": {"0.0": [3, 2, 1]},
        "as_others_report": {"0.0": {"vllm_mean_acceptance_length": 1.5}},
    }
    values = dict.fromkeys(Run.__dataclass_fields__) | {
        "run_id": run_id,
        "name": run_id,
        "tags": [],
        "notes": "",
        "config": {"name": run_id, "train": {"loss": [{"name": "tvd"}], "seed": 0}},
        "provenance": Provenance(),
        "problems": [],
        "summary": Summary.of_values(summary),
        "training": Training(),
        "certificate": True,
        "seed": 0,
        "target": "t",
    }
    return Run(**{**values, **changes})


def frames(run_ids: list[str], accepted: dict[str, int]):
    """Six prompts; every prompt has 3 rounds of 2 proposals, `accepted[run]` of them kept in the first round."""
    prompts, rounds, tokens, metrics = [], [], [], []
    for run_id in run_ids:
        kept = accepted[run_id]
        for i in range(6):
            key = {"run_id": run_id, "prompt_id": f"p{i}"}
            prompts.append(
                key
                | {
                    "temperature": 0.0,
                    "answer": f"same{i}",
                    "prompt_group": f"g{i % 2}",
                    "text": f"question {i}",
                    "exact_sum": 2.0 * kept + 0.1 * i,
                    "agree_sum": kept,
                    "n_positions": 6,
                    "rounds": 3,
                    "drafted": 6,
                    "accepted": kept,
                    "rejected": 3 - kept // 2,
                    "discarded": 0,
                    "emitted": 3 + kept,
                }
            )
            tokens += [key | {"position": n, "agree": n < min(kept, 2)} for n in range(6)]
            rounds += [key | {"num_draft_tokens": 2, "accepted": n, "emitted": n + 1} for n in (kept, 0, 0)]
        for metric, value in (("exact", kept / 3), ("per_proposed", kept / 6)):
            interval = {"value": value, "low": value - 0.01, "high": value + 0.01, "n_prompts": 6, "n_tokens": 36}
            metrics.append({"run_id": run_id, "draft": "trained", "temperature": 0.0, "metric": metric, **interval})
    return (pd.DataFrame(part) for part in (metrics, prompts, rounds, tokens))


def found(*runs: Run, accepted: dict[str, int] | None = None):
    ids = [one.run_id for one in runs]
    metrics, prompts, rounds, tokens = frames(ids, accepted or {run_id: 1 + i for i, run_id in enumerate(ids)})
    return comparison.compared(runs, metrics, prompts, rounds, tokens, 0.0, ids[0])


def rate(result, run_id: str, metric: str) -> pd.Series:
    return result.rates[(result.rates.run_id == run_id) & (result.rates.metric == metric)].iloc[0]


def test_each_server_stands_with_the_rate_it_will_report_and_what_was_not_measured_says_so():
    result = found(run("a"), run("b"))
    shown = tables.servers(result).set_index("server")
    assert shown.loc["Transformers", "comes from"] == "exact"
    assert shown.loc["Transformers", result.drafts[1].label] == pytest.approx(2 / 3)
    assert shown.loc["vLLM", "comes from"] == "argmax (exact with sampled proposals)"
    assert pd.isna(shown.loc["llama.cpp", result.drafts[0].label])  # made before there was argmax
    assert rate(result, "b", "argmax").reason == ""
    assert "not measured" in report.rates_table(result)
    assert "draft acceptance rate" in report.table(tables.servers(result))


def test_the_change_is_draft_less_baseline():
    result = found(run("a"), run("b"))
    assert rate(result, "b", "per_proposed").delta == pytest.approx(1 / 6)
    assert rate(result, "b", "exact").delta == pytest.approx(2 / 6)
    assert rate(result, "b", "exact").delta_prompts == 6
    assert pd.isna(rate(result, "a", "exact").delta)
    assert report.reasons(result) == []


def test_another_gamma_forbids_the_sampled_rates_only_and_says_why():
    result = found(run("a"), run("b", conditions={"num_draft_tokens": 5}))
    ((_, reason, names),) = report.reasons(result)
    assert reason == "num_draft_tokens is 5 here and 2 in the baseline"
    assert set(names) == {"per_proposed", "per_examined", "per_emitted", "tau"}
    assert not pd.isna(rate(result, "b", "exact").delta)
    assert "⊘ not comparable" in report.rates_table(result)
    assert report.heading_of(result) == "Partly comparable"
    assert "Subtracted: exact, greedy_agreement." in report.not_comparable(result)


def test_another_precision_forbids_every_rate():
    result = found(run("a"), run("b", conditions={"dtype": "float16"}))
    assert report.heading_of(result) == "Not comparable"
    assert report.comparable_rates(result, ["B · b"]) == []
    assert report.heading_of(found(run("a"), run("b"))) == ""


def test_a_reason_that_holds_for_several_drafts_is_given_once():
    """Three times the same sentence filled a screen above the first figure."""
    metrics, prompts, rounds, tokens = frames(["a", "b", "c"], {"a": 1, "b": 2, "c": 2})
    runs = [run("a"), *(run(name, conditions={"num_draft_tokens": 5}) for name in "bc")]
    result = comparison.compared(runs, metrics, prompts, rounds, tokens, 0.0, "a")
    ((labels, reason, _),) = report.reasons_together(result)
    assert (labels, reason) == (["B · b", "C · c"], "num_draft_tokens is 5 here and 2 in the baseline")
    assert report.not_comparable(result).count("<li>") == 1


def of_few_prompts():
    """A over six prompts, B over the first two: what Compare holds of them."""
    metrics, prompts, rounds, tokens = frames(["a", "b"], {"a": 1, "b": 2})
    first_two = ~((prompts.run_id == "b") & ~prompts.prompt_id.isin(["p0", "p1"]))
    metrics.loc[metrics.run_id == "b", "n_prompts"] = 2
    return comparison.compared([run("a"), run("b")], metrics, prompts[first_two], rounds, tokens, 0.0, "a")


def test_a_change_over_fewer_prompts_than_the_baselines_says_so_and_two_prompts_have_no_interval():
    result = of_few_prompts()
    row = rate(result, "b", "exact")
    there = (2.0 + 2.1) / 12  # A's sums on p0 and p1 over their positions
    assert row.baseline_there == pytest.approx(there)
    assert pd.isna(row.low)
    assert pd.isna(row.delta_low)
    words = "+0.333, paired on 2 prompts (A there: 0.342); n = 2: too few for an interval"
    assert comparison.change_words(row, "A") == words
    shown = report.rates_table(result)
    assert words in shown
    assert "▲" not in shown, "two prompts are marked"
    assert "n = 2: too few for an interval</small>" in shown
    assert pd.isna(rate(found(run("a"), run("b")), "b", "exact").baseline_there)


def test_the_table_for_a_paper_counts_the_prompts_of_each_row_and_of_the_change():
    table = tables.paper_table(of_few_prompts()).set_index("rate")
    assert (table.loc["exact", "n"], table.loc["exact", "n of change"]) == ("6 / 2", "2")
    assert table.loc["exact", "B · b"] == "0.667 (n = 2: too few for an interval)"
    same = tables.paper_table(found(run("a"), run("b"))).set_index("rate")
    assert (same.loc["exact", "n"], same.loc["exact", "n of change"]) == ("6", "6")
    assert same.loc["exact", "Δ B · b"].startswith("+0.333 [")


def test_the_table_for_a_paper_has_values_and_changes_with_intervals():
    table = tables.paper_table(found(run("a"), run("b"))).set_index("rate")
    assert table.loc["exact", "A · a"] == "0.333 [0.323, 0.343]"
    assert table.loc["per_proposed", "Δ B · b"].startswith("+0.167 [")
    other = found(run("a"), run("b", conditions={"num_draft_tokens": 5}))
    assert tables.paper_table(other).set_index("rate").loc["tau", "Δ B · b"] == "not comparable"


def test_other_answers_are_not_paired():
    ids = ["a", "b"]
    metrics, prompts, rounds, tokens = frames(ids, {"a": 1, "b": 2})
    prompts.loc[prompts.run_id == "b", "answer"] = "other"
    result = comparison.compared([run("a"), run("b")], metrics, prompts, rounds, tokens, 0.0, "a")
    assert all("no held-out answer in common" in reason for _, reason, _ in report.reasons(result))
    assert comparison.paired_prompts(result, "a", "b", "exact").empty


def test_a_temperature_that_was_not_measured_is_reported():
    metrics, prompts, rounds, tokens = frames(["a", "b"], {"a": 1, "b": 2})
    cut = (part[part.run_id == "a"] for part in (metrics, prompts, rounds, tokens))
    measured = {"conditions": CONDITIONS, "improvement": [{"temperature": 1.0, "metric": "exact"}]}
    other = run("b", summary=Summary.of_values(measured))
    result = comparison.compared([run("a"), other], *cut, 0.0, "a")
    assert report.reasons(result)[0][1] == "this draft was not measured at T = 0"
    assert "not measured" in report.rates_table(result)


def test_acceptance_by_position_follows_the_definition():
    slots = found(run("a"), run("b")).slots.set_index(["label", "kind", "slot"])
    assert slots.loc[("A · a", "joint", 1), "value"] == pytest.approx(1 / 3)
    assert slots.loc[("A · a", "conditional", 2), "value"] == 0  # judged in the first round, never kept
    assert slots.loc[("A · a", "conditional", 2), "n"] == 6
    assert slots.loc[("B · b", "joint", 2), "value"] == pytest.approx(1 / 3)


def test_mcnemar_counts_tokens():
    row = found(run("a"), run("b")).agreement.iloc[0]
    assert (row.both, row.only_a, row.only_b, row.neither) == (6, 0, 6, 24)


def test_configuration_shows_what_differs_first():
    b = run("b", config={"name": "b", "train": {"loss": [{"name": "sft"}], "seed": 0}, "tags": ["x"]})
    frame = tables.configuration(found(run("a"), b)).set_index("key")
    assert list(frame[frame.differs].index) == ["name", "train.loss[0].name", "tags"]
    assert frame.loc["tags", "A · a"] == "–"
    assert not frame.loc["train.seed", "differs"]


def test_the_report_of_a_draft_without_training_names_no_seed():
    """It said 'seed None' of a draft that was measured as it is."""
    text = report.comparison_report(found(run("a"), run("b", seed=None)), [])
    assert text.count("seed 0") >= 1
    assert "None" not in text


def test_the_tokens_of_groups_are_those_of_the_rate_above_them():
    """Of accepted over proposed, the groups counted proposed tokens and the rate emitted ones, both as n tokens."""
    result = found(run("a"), run("b"))
    mine = result.prompts[result.prompts.run_id == "a"]
    for rate, counted in (("exact", "n_positions"), ("per_proposed", "emitted"), ("tau", "emitted")):
        groups = comparison.rates_by_group(result, rate)
        assert groups[groups.label == "A · a"].n_tokens.sum() == mine[counted].sum()


def test_suggested_runs_are_alike_and_hold_the_baseline():
    base = {
        "target": "t",
        "domain": "d",
        "heldout_hash": "h",
        "num_draft_tokens": 3,
        "dtype": "f",
        "device": "cpu",
        "archived": False,
        "certificate": True,
        "baseline": False,
        "loss": "forward_kl",
        "mode": "offline",
        "acceptance_rule": "speculative",
    }
    rows = [
        base | {"run_id": "best", "exact": 0.9, "num_draft_tokens": 5},
        base | {"run_id": "x", "exact": 0.5},
        base | {"run_id": "named", "exact": 0.1, "baseline": True},
        base | {"run_id": "bad", "exact": 0.8, "certificate": False},
        base | {"run_id": "old", "exact": 0.7, "archived": True},
        base | {"run_id": "served", "exact": 0.95, "acceptance_rule": SERVED_TEXT, "certificate": None},
    ]
    runs = pd.DataFrame(rows)
    assert every_run.suggested(runs) == ["named", "x"]
    assert every_run.suggested(runs[runs.run_id.isin(["best", "x"])]) == ["best", "x"]  # nothing more alike
    assert every_run.suggested(runs.head(0)) == []


def test_suggested_runs_show_each_loss_before_further_seeds_of_one():
    same = {
        "target": "t",
        "domain": "d",
        "heldout_hash": "h",
        "num_draft_tokens": 3,
        "dtype": "f",
        "device": "cpu",
        "archived": False,
        "certificate": True,
        "baseline": False,
        "mode": "offline",
        "acceptance_rule": "speculative",
    }
    losses = {"a": "kl", "b": "kl", "c": "kl", "d": "sft", "e": "jsd"}
    rows = [same | {"run_id": r, "loss": loss, "exact": 0.9 - i / 10} for i, (r, loss) in enumerate(losses.items())]
    assert every_run.suggested(pd.DataFrame(rows)) == ["a", "d", "e", "b"]
    rows[2]["mode"] = "online"  # another method, though the loss is the same
    assert every_run.suggested(pd.DataFrame(rows)) == ["a", "c", "d", "e"]


def test_cells_take_the_mean_of_their_runs_and_leave_out_what_failed():
    columns = {
        "domain": "d",
        "target": "t",
        "loss": "tvd",
        "scenario": "curated",
        "mode": "offline",
        "archived": False,
        "acceptance_rule": "speculative",
        "n_train": 200.0,
        "steps_done": 75.0,
    }
    states = (("a", 0, True), ("b", 1, True), ("c", 2, False))
    runs = pd.DataFrame(
        [columns | {"run_id": r, "seed": s, "certificate": ok, "heldout_hash": r} for r, s, ok in states]
    )
    values = pd.DataFrame(
        {"run_id": r, "temperature": t, "value": v, "low": v - 0.1, "high": v + 0.1, "n_prompts": 9}
        for r, v in (("a", 0.2), ("b", 0.4), ("c", 0.9))
        for t in (0.0, 1.0)
    )
    (cell,) = every_run.cells(runs.assign(mode="on_policy"), values, "d", "t", 1.0).itertuples()
    assert cell.mode == "on-policy"
    assert (cell.value, cell.low, cell.high) == pytest.approx((0.3, 0.2, 0.4))
    assert (cell.runs, cell.seeds, cell.sets, cell.least, cell.most, cell.passed_over) == (2, 2, 2, 0.2, 0.4, 0)


def test_cells_of_different_size_are_reported_and_of_one_size_are_not():
    cells = pd.DataFrame({"n_train": [200.0, 1600.0], "passed_over": 0, "runs": 1, "sets": 1})
    (said,) = every_run.remarks(cells)
    assert "200 to 1,600" in said
    assert every_run.remarks(cells.assign(n_train=200.0)) == []


@pytest.mark.parametrize("fewer", [{"n_train": 50.0}, {"steps_done": 25.0}, {"n_train": None}])
def test_a_cell_does_not_mix_sizes_and_schedules(fewer: dict[str, float | None]):
    """A mean over 50 and 200 queries would rank a loss by how often it was run small."""
    columns = {
        "domain": "d",
        "target": "t",
        "loss": "tvd",
        "scenario": "curated",
        "mode": "offline",
        "archived": False,
        "acceptance_rule": "speculative",
        "certificate": True,
        "heldout_hash": "h",
        "seed": 0,
        "n_train": 200.0,
        "steps_done": 75.0,
    }
    runs = pd.DataFrame([columns | {"run_id": "whole"}, columns | fewer | {"run_id": "less"}])
    values = pd.DataFrame(
        {"run_id": r, "temperature": 1.0, "value": v, "low": v, "high": v, "n_prompts": 9}
        for r, v in (("whole", 0.4), ("less", 0.2))
    )
    (cell,) = every_run.cells(runs, values, "d", "t", 1.0).itertuples()
    assert (cell.value, cell.runs, cell.passed_over) == (0.4, 1, 1)


def test_a_row_of_the_map_is_of_one_number_of_training_queries():
    columns = {
        **{"domain": "d", "target": "t", "loss": "tvd", "mode": "offline", "archived": False, "certificate": True},
        **{"acceptance_rule": "speculative", "heldout_hash": "h", "seed": 0, "steps_done": 75.0},
    }
    places = [("curated", 200.0), ("synthetic", 200.0), ("logs", 200.0), ("synthetic", 300.0), ("historical", 300.0)]
    runs = pd.DataFrame([columns | {"run_id": f"{s}{n:g}", "scenario": s, "n_train": n} for s, n in places])
    values = pd.DataFrame(
        {"run_id": r, "temperature": 1.0, "value": 0.4, "low": 0.3, "high": 0.5, "n_prompts": 9} for r in runs.run_id
    )
    cells = every_run.cells(runs, values, "d", "t", 1.0)
    assert {(c.loss, c.scenario, c.n_train) for c in cells.itertuples()} == {
        ("tvd, 200 queries", "curated", 200.0),
        ("tvd, 200 queries", "synthetic", 200.0),
        ("tvd, 200 queries", "logs", 200.0),
        ("tvd, 300 queries", "historical", 300.0),
    }
    assert cells.groupby("loss").n_train.nunique().eq(1).all()
    assert int(cells.passed_over.sum()) == 1
    alike = every_run.cells(runs[runs.n_train == 200], values, "d", "t", 1.0)
    assert set(alike.loss) == {"tvd"}


def test_files_of_two_temperatures_or_baselines_have_names_of_their_own():
    one, other = found(run("a"), run("b")), replace(found(run("b"), run("a")), temperature=0.7)
    assert figures.file_name("by-group", one) == "by-group-T0"
    assert figures.file_name("rates", one, baseline=True) == "rates-to-a-T0"
    assert figures.file_name("rates", other, baseline=True) == "rates-to-b-T0.7"
    assert figures.scatter(one, "a", "b", "exact").name == "prompts-exact-to-a-T0"


def evil_comparison():
    b = run("b", title=f"B {EVIL}", notes=EVIL, tags=[EVIL], domain=EVIL, config={"name": EVIL}, target=EVIL)
    result = found(run("a"), b)
    prompts = result.prompts.replace(
        {"text": {"question 0": EVIL}, "prompt_group": {"g0": EVIL}, "prompt_id": {"p0": EVIL}}
    )
    return replace(result, prompts=prompts)


def evil_report(**options) -> str:
    result = evil_comparison()
    token = Token(7, Fate.ACCEPTED, 0, 0.5, 0.5, 0.1, 0.5, text=EVIL)
    trace = Trace("", EVIL, EVIL, {}, (Round(0, 0, 1, (token,), 0.1, 0.1, 0.0),))
    views = [
        figures.rates(result, "exact"),
        figures.scatter(result, "a", "b", "exact"),
        figures.groups(result, "exact"),
    ]
    when = datetime(2026, 1, 2, 3, 4, tzinfo=UTC)
    example = report.Example(EVIL, (("B", trace),))
    return report.comparison_report(result, views, title=f"T {EVIL}", example=example, made_at=when, **options)


@pytest.fixture(scope="module")
def interactive() -> str:
    return evil_report(interactive=True)


def test_no_text_of_a_user_becomes_markup(interactive: str):
    plain = without_scripts(interactive)
    assert "<script>alert" not in interactive
    assert "onerror=alert" not in re.sub(r"&lt;img src=x onerror=alert\(\d\)&gt;", "", plain)
    assert "<img src=x" not in interactive
    assert plain.count("&lt;script&gt;alert(1)") > 8  # title, label, notes, tags, domain, target, prompt, token ...


def test_a_figure_cannot_end_its_script(interactive: str):
    data = "".join(re.findall(r"Plotly\.newPlot\(.*?\)\s*};", interactive, re.S))
    assert "</script" not in data
    assert "alert(1)" in data  # the text is there, and harmless


def without_scripts(page: str) -> str:
    return re.sub(r"<script\b.*?</script>", "", page, flags=re.S)


def test_the_report_asks_the_network_for_nothing(interactive: str):
    assert "default-src 'none'" in interactive
    assert not re.search(r"(src|href)\s*=\s*[\"']?(https?:)?//", without_scripts(interactive))
    assert not re.search(r"<script[^>]+src=", interactive)
    assert (
        interactive.count("plotly.js v") <= 1 < interactive.count("Plotly.newPlot(")
    )  # the program once, figures each


def test_the_report_holds_every_part(interactive: str):
    headings = ("Rates", "Figures", "As other systems would print it", "Configuration", "Origin", "Definitions")
    for part in ("2026-01-02 03:04 UTC", *headings, "@media print", "prefers-color-scheme:dark"):
        assert part in interactive
    assert "n = 6 prompts" in interactive
    assert "fate-accepted" in interactive


def test_figures_are_pictures_where_a_chrome_is(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(downloads, "chrome", lambda: "/usr/bin/chrome")
    monkeypatch.setattr(downloads, "figures_bytes", lambda figs, kind, timeout_s: [b"<svg/>"] * len(figs))
    page = evil_report()
    assert page.count("data:image/svg+xml;base64,") == 3
    assert "<script" not in page
    assert len(page) < 100_000


def test_a_setting_of_a_table_is_broken_at_its_dots_and_underscores_alone():
    shown = report.table(pd.DataFrame({"key": ["train.batch_size", "A · 0.5 <b>"], "value": ["a.b_c", 1]}))
    assert "<td>train.<wbr>batch_<wbr>size</td><td>a.b_c</td>" in shown
    assert "<td>A · 0.5 &lt;b&gt;</td>" in shown
